from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from calibration.baselines import Family, baselines
from calibration.quality_curves import (
    LEVELS,
    Outcomes,
    cost_at,
    curves_of,
    quality_curve,
    relative_costs,
    static_curve,
)
from models.measurements import QualityCurve, QualityPoint
from models.policy import Policy
from models.runtime import Answers, at_exits
from tests.calibration.test_baselines import drawn, shares

SEEDS = st.integers(0, 2**32 - 1)


def curve(method: str, *points: tuple[float, float]) -> QualityCurve:
    """Points as (time, micro-F1)."""
    return QualityCurve(
        method=method,
        points=tuple(
            QualityPoint(time=time, micro_f1=f1, set_agreement=0.5) for time, f1 in points
        ),
    )


@settings(deadline=None, max_examples=50)
@given(SEEDS, st.integers(1, 5), st.booleans())
def test_points_equal_a_direct_computation(seed: int, depth: int, truncated: bool) -> None:
    answers, truth = drawn(seed, depth + 1)
    full = answers[-1]
    until = np.cumsum(np.random.default_rng(seed).random(depth + 1))
    until /= until[-1]
    if truncated:  # the full model's answers are no exit's
        answers, until = answers[:-1], until[:-1]
    outcomes = Outcomes.measured(answers, full, truth, until)
    exits = np.random.default_rng(seed).integers(1, len(answers) + 1, size=len(truth))
    answered = at_exits(answers, exits)
    point = outcomes.point(exits)
    expected = f1_score(truth, answered.labels, average="micro", zero_division=1.0)
    assert point.micro_f1 == pytest.approx(expected)
    assert point.set_agreement == pytest.approx((answered.labels == full.labels).all(axis=1).mean())
    assert point.time == pytest.approx(np.mean([until[k - 1] for k in exits]))


def test_nothing_against_nothing_is_a_quality_of_one() -> None:
    none = Answers(np.zeros((4, 2)), np.zeros((4, 2), bool), np.ones(4))
    outcomes = Outcomes.measured([none], none, np.zeros((4, 2), bool), [1.0])
    assert outcomes.point(np.ones(4, int)) == QualityPoint(time=1, micro_f1=1, set_agreement=1)


def test_a_curve_has_every_point_once_in_the_order_of_its_settings() -> None:
    answers, truth = drawn(0, 3)
    outcomes = Outcomes.measured(answers, answers[-1], truth, shares(3))
    at = [np.full(len(truth), k) for k in (1, 2, 3)]
    measured = quality_curve("any", [at[2], at[0], at[2], at[1], at[1]], outcomes)
    assert measured.points == tuple(outcomes.point(at[k]) for k in (2, 0, 1))
    assert measured.method == "any"


def test_static_truncation_has_one_point_per_layer_the_deepest_first() -> None:
    answers, truth = drawn(0, 4)
    measured = static_curve(Outcomes.measured(answers, answers[-1], truth, shares(4)))
    assert [point.time for point in measured.points] == pytest.approx([1, 0.75, 0.5, 0.25])
    assert [point.micro_f1 for point in measured.points] == pytest.approx(
        [f1_score(truth, a.labels, average="micro") for a in answers[::-1]]
    )
    assert measured.points[0].set_agreement == 1


def test_curves_come_w_path_first_and_static_last_and_begin_together() -> None:
    tune, tune_truth = drawn(0, 4)
    answers, truth = drawn(1, 4)
    outcomes = Outcomes.measured(answers, answers[-1], truth, shares(4))
    families = baselines(tune, tune_truth, shares(4), settings=10)
    path = [Policy((None, None, 0.2)), Policy((0.8, None, 0.2))]
    curves = curves_of(path, families, answers, outcomes, outcomes)
    methods = [family.method for family in families]
    assert [c.method for c in curves] == ["W path", *methods, "static"]
    last = outcomes.point(np.full(len(truth), 4))
    assert {c.points[0] for c in curves} == {last}
    scores = [a.score for a in answers]
    assert curves[0].points[1:] == tuple(outcomes.point(p.route(scores)) for p in path)


def test_an_empty_path_is_the_last_exit_alone() -> None:
    answers, truth = drawn(0, 1)
    outcomes = Outcomes.measured(answers, answers[-1], truth, [1.0])
    families = baselines(answers, truth, np.ones(1), settings=10)
    for measured in curves_of([], families, answers, outcomes, outcomes):
        assert measured.points == (outcomes.point(np.ones(len(truth), int)),)


def test_a_family_is_routed_on_the_split_that_is_measured() -> None:
    answers, truth = drawn(0, 2, rows=20)
    seen = []

    def routes(given_answers: list[Answers]) -> list[np.ndarray]:
        seen.append(given_answers)
        return [np.full(20, 2)]

    outcomes = Outcomes.measured(answers, answers[-1], truth, shares(2))
    curves_of([], [Family("any", routes)], answers, outcomes, outcomes)
    assert seen == [answers]


POINTS = st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), max_size=8)


@given(POINTS, st.floats(0, 1))
def test_cost_is_the_least_time_of_a_point_that_is_good_enough(
    points: list[tuple[float, float]], level: float
) -> None:
    cost = cost_at(curve("any", *points), level)
    good_enough = [time for time, f1 in points if f1 >= level]
    if cost is None:
        assert not good_enough
    else:
        assert cost in good_enough
        assert all(cost <= time for time in good_enough)


@given(POINTS, st.floats(0, 1), st.floats(0, 1))
def test_more_quality_never_costs_less(
    points: list[tuple[float, float]], one: float, other: float
) -> None:
    cheap, dear = (cost_at(curve("any", *points), level) for level in sorted((one, other)))
    assert dear is None or (cheap is not None and cheap <= dear)


def test_a_quality_between_two_points_costs_the_better_one() -> None:
    measured = curve("any", (1.0, 0.8), (0.5, 0.6))
    assert cost_at(measured, 0.6) == 0.5
    assert cost_at(measured, 0.7) == 1.0
    assert cost_at(measured, 0.81) is None


def test_costs_at_equal_quality_are_compared_with_every_baseline() -> None:
    w_path = curve("W path", (1.0, 0.8), (0.4, 0.7))
    dear = curve("dear", (1.0, 0.8), (0.8, 0.7))
    same = curve("same", (1.0, 0.8), (0.4, 0.7))
    costs = relative_costs([w_path, dear, same])
    assert costs["same"] == 1
    # half the time at the lowest of LEVELS levels; the same above it
    assert costs["dear"] == pytest.approx(0.5 ** (1 / LEVELS))


def test_levels_end_where_one_of_the_two_ends() -> None:
    w_path = curve("W path", (1.0, 0.8), (0.4, 0.7))
    costs = relative_costs([w_path, curve("cheap", (0.5, 0.7))])
    assert costs["cheap"] == pytest.approx(0.8)


def test_a_baseline_below_the_most_eager_policy_is_not_compared() -> None:
    w_path = curve("W path", (1.0, 0.8), (0.4, 0.7))
    assert relative_costs([w_path, curve("poor", (0.1, 0.5))]) == {"poor": None}
