from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment
from scipy.special import expit

from calibration.transport import anchored_distance, exact_distance, sliced_distance


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def teacher(rng: np.random.Generator) -> np.ndarray:
    return rng.random((300, 6))


@pytest.mark.parametrize("distance", [exact_distance, sliced_distance])
@pytest.mark.parametrize("width", [2, 20])
def test_a_shift_has_its_length_in_one_unit(distance, width: int, rng: np.random.Generator) -> None:
    points = rng.random((400, width))
    shift = 3 * np.ones(width) / np.sqrt(width)
    assert distance(points, points + shift).value == pytest.approx(3, rel=0.1)


@pytest.mark.parametrize("distance", [exact_distance, sliced_distance])
def test_a_distribution_is_at_no_distance_to_itself(distance, rng: np.random.Generator) -> None:
    points = rng.random((400, 5))
    assert distance(points, points).value == pytest.approx(0, abs=1e-6)
    assert distance(points, rng.permutation(points)).value < 0.15


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**32 - 1))
def test_exact_distance_equals_the_optimal_assignment(seed: int) -> None:
    rng = np.random.default_rng(seed)
    points, target = rng.random((2, 30, 4))
    cost = ((points[:, None] - target[None]) ** 2).sum(axis=2)
    best = cost[linear_sum_assignment(cost)].mean()
    found = exact_distance(points, target, rows=30, repeats=1)
    assert found.value == pytest.approx(np.sqrt(best))


def test_anchored_distance_of_right_answers_is_zero(teacher: np.ndarray) -> None:
    labels = teacher > 0.5
    assert anchored_distance(labels, labels, teacher) == pytest.approx(0, abs=1e-7)


def test_anchored_distance_sees_shuffled_answers(
    teacher: np.ndarray, rng: np.random.Generator
) -> None:
    labels = teacher > 0.5
    shuffled = rng.permutation(labels)
    marginal = exact_distance(shuffled.astype(float), labels.astype(float), rows=300)
    assert marginal.value == pytest.approx(0, abs=1e-7)
    assert anchored_distance(shuffled, labels, teacher) > 0.5


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**32 - 1))
def test_anchored_distance_is_the_optimal_assignment_under_its_documented_cost(seed: int) -> None:
    rng = np.random.default_rng(seed)
    teacher = rng.random((25, 3))
    target = teacher > 0.5
    labels = target ^ (rng.random((25, 3)) < 0.2)
    differ = (labels[:, None] != target[None]).any(axis=2)
    squares = ((teacher[:, None] - teacher[None]) ** 2).sum(axis=2)
    cost = differ + squares / squares.mean()
    best = cost[linear_sum_assignment(cost)].mean()
    assert anchored_distance(labels, target, teacher) == pytest.approx(np.sqrt(best), abs=1e-7)


def test_anchored_distance_ignores_the_scale_of_the_logits(rng: np.random.Generator) -> None:
    """Quartering the logits of answers that are partly wrong moves the marginal distance only."""
    logits = rng.normal(scale=3, size=(300, 6))
    teacher = expit(logits)
    noisy = logits + rng.normal(scale=1, size=logits.shape)
    moved = exact_distance(expit(noisy / 4), teacher, rows=300).value
    assert moved > 1.2 * exact_distance(expit(noisy), teacher, rows=300).value
    before, after = (anchored_distance(z > 0, logits > 0, teacher) for z in (noisy, noisy / 4))
    assert before == after > 0.1


def test_anchored_distance_ignores_the_unit_of_the_teacher(
    teacher: np.ndarray, rng: np.random.Generator
) -> None:
    labels = teacher > 0.5
    wrong = labels ^ (rng.random(labels.shape) < 0.1)
    before, after = (anchored_distance(wrong, labels, scale * teacher) for scale in (1, 0.1))
    assert before == pytest.approx(after)


def test_exits_are_measured_on_the_same_rows(teacher: np.ndarray) -> None:
    """Equal shifts of the same points come out equal, sub-sample for sub-sample."""
    for distance in (exact_distance, sliced_distance):
        one, other = (distance(teacher + s, teacher, seed=4) for s in (0.2, -0.2))
        assert one.value == pytest.approx(other.value)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**32 - 1), st.floats(0, 1))
def test_anchored_distance_is_at_most_the_root_of_the_disagreement(seed: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    teacher = rng.random((60, 4))
    labels = teacher > 0.5
    answers = labels.copy()
    answers[:, 0] ^= rng.random(60) < share
    disagreement = (answers != labels).any(axis=1).mean()
    assert anchored_distance(answers, labels, teacher) <= np.sqrt(disagreement) + 1e-7
