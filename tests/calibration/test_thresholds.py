from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from calibration.guarantee import Against, Guarantee
from calibration.thresholds import CurveOptions, ThresholdCurve, policy_path, threshold_curve
from models.errors import CalibrationError
from models.policy import Policy
from models.runtime import Answers


def curve(*pairs: tuple[float, float]) -> ThresholdCurve:
    thresholds, distances = (np.array(values) for values in zip(*pairs, strict=True))
    return ThresholdCurve(thresholds, distances)


def test_threshold_is_the_smallest_that_holds_for_all_above_it() -> None:
    bumpy = curve((0.9, 0.1), (0.7, 0.3), (0.5, 0.2), (0.3, 0.4))
    assert bumpy.threshold(0.1) == 0.9
    assert bumpy.threshold(0.2) == 0.9  # 0.5 alone would do, but 0.7 above it does not
    assert bumpy.threshold(0.3) == 0.5
    assert bumpy.threshold(9) == 0.3


def test_no_threshold_holds_below_the_smallest_distance() -> None:
    assert curve((0.9, 0.1), (0.7, 0.3)).threshold(0.05) is None


def test_path_is_every_policy_of_a_rising_tolerance() -> None:
    path = policy_path([curve((0.9, 0.1), (0.5, 0.3)), curve((0.8, 0.0), (0.4, 0.2))])
    assert path == [
        Policy((None, 0.8)),
        Policy((0.9, 0.8)),
        Policy((0.9, 0.4)),
        Policy((0.5, 0.4)),
    ]


@pytest.fixture
def answers() -> tuple[Answers, Answers]:
    """An exit whose label sets differ from the teacher's the more often, the lower the score."""
    rng = np.random.default_rng(0)
    probabilities = rng.random((800, 5)).astype(np.float32)
    labels = probabilities > 0.5
    score = rng.random(800).astype(np.float32)
    wrong = labels.copy()
    wrong[:, 0] ^= rng.random(800) > score
    return Answers(probabilities, wrong, score), Answers(probabilities, labels, score)


def measure(
    early: Answers, last: Answers, points: int, seed: int = 0, against: Against = "model"
) -> ThresholdCurve:
    return threshold_curve(
        early,
        last,
        last.probabilities,
        last.labels,
        Guarantee(against=against),
        np.random.default_rng(seed),
        CurveOptions(points=points),
    )


@pytest.mark.parametrize("against", ["model", "labels"])
def test_curve_rises_as_unsure_rows_join(
    answers: tuple[Answers, Answers], against: Against
) -> None:
    early, teacher = answers
    measured = measure(early, teacher, points=10, against=against)
    assert (np.diff(measured.thresholds) < 0).all()
    assert measured.thresholds[-1] == early.score.min()
    assert measured.distances[0] < 0.7 * measured.distances[-1]


def test_policies_along_the_path_only_get_more_eager(answers: tuple[Answers, Answers]) -> None:
    early, teacher = answers
    curves = [measure(early, teacher, points=12, seed=seed) for seed in (0, 1)]
    scores = [early.score, early.score, early.score]
    routes = [policy.route(scores) for policy in policy_path(curves)]
    assert len(routes) > 5
    assert all((after <= before).all() for before, after in pairwise(routes))


def test_too_few_rows_to_measure_on_are_said_so(answers: tuple[Answers, Answers]) -> None:
    few = np.arange(99)
    with pytest.raises(CalibrationError, match="99 rows, expected at least 100"):
        measure(answers[0].take(few), answers[1].take(few), points=12)


def test_against_labels_an_exit_better_than_the_last_has_a_negative_excess(
    answers: tuple[Answers, Answers],
) -> None:
    wrong, right = answers
    curve = threshold_curve(
        right,
        wrong,
        right.probabilities,
        right.labels,
        Guarantee(against="labels"),
        np.random.default_rng(0),
        CurveOptions(points=5),
    )
    assert (curve.distances < 0).all()


def test_one_exit_has_an_empty_path() -> None:
    assert policy_path([]) == []
