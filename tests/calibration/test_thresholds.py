from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibration.guarantee import Against, Guarantee, Guarantees
from calibration.thresholds import WCurve, policy_path, threshold_curve
from models.errors import CalibrationError
from models.policy import Policy
from models.runtime import Answers


def curve(*pairs: tuple[float, float], rows: list[int] | None = None) -> WCurve:
    thresholds, distances = (np.array(values) for values in zip(*pairs, strict=True))
    return WCurve(thresholds, distances, np.array(rows or [1] * len(pairs)))


def test_a_loss_among_few_sure_rows_is_pooled_with_the_many_behind_them() -> None:
    """The largest W so far would be 0.5 from the first band on."""
    unlucky = curve((0.9, 0.5), (0.7, 0.1), (0.5, 0.1), (0.3, 0.4), rows=[10, 90, 200, 300])
    pooled = (10 * 0.5 + 90 * 0.1 + 200 * 0.1) / 300
    np.testing.assert_allclose(unlucky.envelope, [pooled, pooled, pooled, 0.4])


def test_path_opens_the_cheapest_band_first() -> None:
    path = policy_path([curve((0.9, 0.1), (0.0, 0.3)), curve((0.8, 0.0), (0.0, 0.2))], [1, 1])
    assert path == [
        Policy((None, 0.8)),
        Policy((0.9, 0.8)),
        Policy((0.9, 0.0)),
        Policy((0.0, 0.0)),
    ]


def test_an_exit_that_saves_more_time_may_lose_more() -> None:
    early, late = curve((0.9, 0.2), (0.0, 0.4)), curve((0.8, 0.15), (0.0, 0.3))
    assert policy_path([early, late], [0.5, 0.5])[0] == Policy((None, 0.8))
    assert policy_path([early, late], [0.9, 0.3])[0] == Policy((0.9, None))


def test_bands_at_the_same_price_open_one_by_one() -> None:
    flat = curve((0.9, 0.2), (0.5, 0.2), (0.0, 0.2))
    assert policy_path([flat], [1]) == [Policy((0.9,)), Policy((0.5,)), Policy((0.0,))]


@given(
    st.lists(st.lists(st.floats(-1, 1), min_size=1, max_size=6), min_size=1, max_size=4),
    st.lists(st.floats(0.01, 1), min_size=4, max_size=4),
)
def test_policies_along_the_path_only_get_more_eager(
    distances: list[list[float]], saved: list[float]
) -> None:
    curves = [
        curve(*((1 - (k + 1) / len(of_exit), w) for k, w in enumerate(of_exit)))
        for of_exit in distances
    ]
    path = policy_path(curves, saved[: len(curves)])
    scores = [np.linspace(0, 1, 21, dtype=np.float32)] * (len(curves) + 1)
    routes = [policy.route(scores) for policy in path]
    assert all((after <= before).all() for before, after in pairwise(routes))
    assert len(path) == sum(map(len, distances))
    assert path[-1].thresholds == (0.0,) * len(curves)


@pytest.fixture
def answers() -> tuple[Answers, Answers]:
    """An exit whose label sets differ from the last one's the more often, the lower the score."""
    rng = np.random.default_rng(0)
    probabilities = rng.random((2000, 5)).astype(np.float32)
    labels = probabilities > 0.5
    score = rng.random(2000).astype(np.float32)
    wrong = labels.copy()
    wrong[:, 0] ^= rng.random(2000) > score
    return Answers(probabilities, wrong, score), Answers(probabilities, labels, score)


def measure(
    early: Answers,
    last: Answers,
    target: np.ndarray | None = None,
    against: Against = "model",
    bands: int = 10,
) -> WCurve:
    target = last.labels if target is None else target
    guarantees = Guarantees((Guarantee(against=against),))
    return threshold_curve(early, last, target, last.probabilities, guarantees, bands)


def test_bands_rise_as_rows_get_unsure_and_hold_every_row_once(
    answers: tuple[Answers, Answers],
) -> None:
    measured = measure(*answers)
    assert (np.diff(measured.thresholds) < 0).all()
    assert measured.thresholds[-1] == 0
    assert measured.rows.sum() == 2000
    assert (measured.rows == 200).all()
    assert measured.distances[0] < 0.5 * measured.distances[-1]
    early = answers[0].score
    for threshold, rows in zip(measured.thresholds[:-1], measured.rows.cumsum(), strict=False):
        assert np.count_nonzero(early >= np.float32(threshold)) == rows


def test_rows_of_equal_score_stay_in_one_band(answers: tuple[Answers, Answers]) -> None:
    early, last = answers
    coarse = Answers(early.probabilities, early.labels, np.round(early.score, 1))
    measured = measure(coarse, last, bands=40)
    assert len(measured.thresholds) <= 11
    assert measured.rows.sum() == 2000


def test_too_few_rows_to_measure_on_are_said_so(answers: tuple[Answers, Answers]) -> None:
    few = np.arange(19)
    with pytest.raises(CalibrationError, match="19 rows, expected at least 20"):
        measure(answers[0].take(few), answers[1].take(few))


def test_few_rows_make_few_bands(answers: tuple[Answers, Answers]) -> None:
    few = np.arange(95)
    measured = measure(answers[0].take(few), answers[1].take(few), bands=80)
    assert len(measured.rows) == 9
    assert measured.rows.min() >= 10


def test_an_exit_better_than_the_last_has_a_negative_excess(
    answers: tuple[Answers, Answers],
) -> None:
    wrong, right = answers
    better = measure(right, wrong, target=right.labels, against="labels")
    assert (better.distances <= 0).all()
    assert better.distances[-1] < 0


def test_an_exit_like_the_last_costs_nothing(answers: tuple[Answers, Answers]) -> None:
    early, _ = answers
    np.testing.assert_array_equal(measure(early, early, target=~early.labels).distances, 0)


@pytest.mark.parametrize(("epsilon", "counts"), [(0.001, True), (0.02, False), (0.2, False)])
def test_of_several_promises_the_one_nearest_to_its_epsilon_counts(
    epsilon: float, counts: bool
) -> None:
    rng = np.random.default_rng(0)
    probabilities = rng.random((200, 5)).astype(np.float32)
    last = Answers(probabilities, probabilities > 0.5, rng.random(200).astype(np.float32))
    early = Answers(probabilities, last.labels ^ (rng.random((200, 5)) < 0.1), last.score)

    def measured(*promises: Guarantee) -> np.ndarray:
        guarantees = Guarantees(promises)
        return threshold_curve(
            early, last, last.labels, last.probabilities, guarantees, 1
        ).distances

    sets = Guarantee("set-agreement", epsilon=0.02)
    both = measured(sets, Guarantee("hamming", epsilon=epsilon))
    if counts:
        assert both > measured(sets)
    else:
        np.testing.assert_allclose(both, measured(sets))


def test_one_exit_has_an_empty_path() -> None:
    assert policy_path([], []) == []
