from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import ot
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment
from scipy.special import expit
from scipy.stats import wasserstein_distance

from calibration import transport
from calibration.transport import (
    anchored_distance,
    bures_w,
    exact_w,
    label_w1,
    on_device,
    sinkhorn_w,
    sliced_w,
)
from models.errors import CalibrationError

Distance = Callable[[np.ndarray, np.ndarray], float]

DISTANCES: dict[str, Distance] = {
    "W2": exact_w,
    "W1": partial(exact_w, order=1),
    "sliced": partial(sliced_w, seed=3),
    "Bures": bures_w,
    "Sinkhorn": sinkhorn_w,
}
every_distance = pytest.mark.parametrize("distance", DISTANCES.values(), ids=DISTANCES.keys())
many_seeds = settings(deadline=None, max_examples=20)
seeds = st.integers(0, 2**32 - 1)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def teacher(rng: np.random.Generator) -> np.ndarray:
    return rng.random((300, 6))


def clouds(seed: int, rows: int = 40, width: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Two clouds that differ in place, spread and correlation."""
    rng = np.random.default_rng(seed)
    mix = rng.normal(size=(width, width))
    return rng.random((rows, width)), rng.normal(size=(rows, width)) @ mix + rng.normal(size=width)


def differ(labels: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Loss 1 where two label sets differ, for every pair of rows."""
    return (labels[:, None] != target[None]).any(axis=2).astype(float)


@every_distance
@many_seeds
@given(seeds, st.floats(0.01, 100), st.sampled_from([1, 3, 17]))
def test_the_distance_of_a_shift_is_its_length(
    distance: Distance, seed: int, length: float, width: int
) -> None:
    points = clouds(seed, width=width)[1]
    shift = np.random.default_rng(seed).normal(size=width)
    shift *= length / np.linalg.norm(shift)
    # Sinkhorn's iteration ends while the cost still moves by millionths of its mean
    rest = 2e-5 * ot.dist(points, points + shift).mean() if distance is sinkhorn_w else 0.0
    assert distance(points, points + shift) ** 2 == pytest.approx(length**2, rel=1e-5, abs=rest)


@every_distance
@many_seeds
@given(seeds)
def test_a_distance_does_not_know_first_from_second(distance: Distance, seed: int) -> None:
    points, target = clouds(seed)
    assert distance(points, target) == pytest.approx(distance(target, points), rel=1e-3)
    assert distance(points, target) > 0.05


@every_distance
@many_seeds
@given(seeds)
def test_the_order_of_the_rows_does_not_matter(distance: Distance, seed: int) -> None:
    points, target = clouds(seed)
    assert distance(points, points[::-1]) == pytest.approx(0, abs=1e-6)
    assert distance(points, target[::-1]) == pytest.approx(distance(points, target), rel=1e-3)


@many_seeds
@given(seeds, st.sampled_from([2, 5, 60]))
def test_exact_w2_is_above_w1_sliced_and_bures(seed: int, width: int) -> None:
    points, target = clouds(seed, width=width)
    w2 = exact_w(points, target) * (1 + 1e-9)
    assert 0 < exact_w(points, target, order=1) <= w2
    assert 0 < bures_w(points, target) <= w2
    assert 0 < sliced_w(points, target, seed=seed) <= w2


@many_seeds
@given(seeds, st.sampled_from([1, 2]))
def test_exact_distances_are_the_optimal_assignment(seed: int, order: int) -> None:
    points, target = clouds(seed)
    cost = np.linalg.norm(points[:, None] - target[None], axis=2) ** order
    best = cost[linear_sum_assignment(cost)].mean() ** (1 / order)
    assert exact_w(points, target, order) == pytest.approx(best)


@many_seeds
@given(seeds)
def test_between_gaussians_exact_w2_is_bures_closed_form(seed: int) -> None:
    """A symmetric positive map is the optimal plan between a cloud and its image."""
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(60, 3))
    points -= points.mean(axis=0)
    points = points @ np.linalg.inv(np.linalg.cholesky(points.T @ points / 60)).T  # covariance 1
    factor = rng.normal(size=(3, 3))
    stretch, shift = factor @ factor.T, rng.normal(size=3)
    closed = np.sqrt((shift**2).sum() + ((stretch - np.eye(3)) ** 2).sum())
    assert bures_w(points, points @ stretch + shift) == pytest.approx(closed)
    assert exact_w(points, points @ stretch + shift) == pytest.approx(closed)


@many_seeds
@given(seeds, st.sampled_from([3, 10, 59]))
def test_bures_agrees_with_pot(seed: int, width: int) -> None:
    points, target = clouds(seed, rows=60, width=width)
    oracle = ot.gaussian.empirical_bures_wasserstein_distance(points, target, reg=0)
    assert bures_w(points, target) == pytest.approx(float(oracle), rel=1e-4)


def test_bures_takes_more_labels_than_rows(rng: np.random.Generator) -> None:
    """Labels without any variance add nothing: the two ways to factor a covariance agree."""
    points, target = (rng.random((20, 8)) for _ in range(2))
    wide = [np.hstack([side, np.zeros((20, 40))]) for side in (points, target)]
    assert bures_w(*wide) == pytest.approx(bures_w(points, target))


def test_sliced_agrees_with_pot(rng: np.random.Generator) -> None:
    points, target = clouds(1, rows=100, width=8)
    oracle = ot.sliced_wasserstein_distance(points, target, n_projections=5000, seed=0)
    assert sliced_w(points, target, 0, 2000) == pytest.approx(np.sqrt(8) * oracle, rel=0.03)


def test_more_projections_vary_less() -> None:
    points, target = clouds(1)
    few, many = (
        np.std([sliced_w(points, target, seed, projections) for seed in range(20)])
        for projections in (4, 400)
    )
    assert many < 0.25 * few


def test_the_seed_decides_the_directions() -> None:
    points, target = clouds(1)
    assert sliced_w(points, target, 5) == sliced_w(points, target, 5)
    assert sliced_w(points, target, 5) != sliced_w(points, target, 6)


def test_sinkhorn_of_equal_laws_is_near_zero_where_exact_is_not(rng: np.random.Generator) -> None:
    one, other = rng.random((2, 300, 5))
    assert exact_w(one, other) > 0.25
    assert sinkhorn_w(one, other) < 0.6 * exact_w(one, other)
    assert sinkhorn_w(one, other, regularisation=1.0) < 0.3 * exact_w(one, other)


@many_seeds
@given(seeds)
def test_sinkhorn_tends_to_exact(seed: int) -> None:
    points, target = clouds(seed)
    exact = exact_w(points, target)
    far, near = (abs(sinkhorn_w(points, target, reg) - exact) for reg in (1.0, 0.01))
    assert near < far
    assert near < 0.01 * exact


def test_sinkhorn_takes_points_that_are_all_the_same() -> None:
    points = np.zeros((5, 2))
    assert sinkhorn_w(points, points) == 0
    assert sinkhorn_w(points, points + 1) == pytest.approx(np.sqrt(2))


@every_distance
def test_torch_gives_what_numpy_gives(distance: Distance) -> None:
    points, target = (side.astype(np.float32) for side in clouds(2, rows=200, width=7))
    tensors = torch.tensor(points), torch.tensor(target)
    assert isinstance(distance(*tensors), float)
    assert distance(*tensors) == pytest.approx(distance(points, target), rel=1e-5)
    assert label_w1(*tensors) == pytest.approx(label_w1(points, target), rel=1e-5)


@many_seeds
@given(seeds)
def test_a_labels_distance_is_scipys(seed: int) -> None:
    points, target = clouds(seed)
    oracle = [wasserstein_distance(a, b) for a, b in zip(points.T, target.T, strict=True)]
    assert label_w1(points, target) == pytest.approx(oracle)


def test_blocks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    points, target = clouds(3, rows=90, width=7)

    def all_distances() -> list[float]:
        return [
            sliced_w(points, target, 0),
            bures_w(points, target),
            *label_w1(points, target),
        ]

    whole = all_distances()
    monkeypatch.setattr(transport, "BLOCK_NUMBERS", 200)
    assert all_distances() == pytest.approx(whole)


def test_the_cpu_takes_the_array_itself(teacher: np.ndarray) -> None:
    assert on_device(teacher, "cpu") is teacher


@pytest.mark.parametrize(("device", "found"), [("cuda", "no CUDA device"), ("tpu", "no such")])
def test_a_device_that_is_missing_is_refused(
    device: str, found: str, teacher: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(CalibrationError, match=f"'{device}'.*{found}.*'cpu'"):
        on_device(teacher, device)


def test_anchored_distance_of_right_answers_is_zero(teacher: np.ndarray) -> None:
    labels = teacher > 0.5
    assert anchored_distance(differ(labels, labels), teacher) == pytest.approx(0, abs=1e-7)


def test_anchored_distance_sees_shuffled_answers(
    teacher: np.ndarray, rng: np.random.Generator
) -> None:
    labels = teacher > 0.5
    shuffled = rng.permutation(labels)
    as_points = shuffled.astype(float), labels.astype(float)
    assert exact_w(*as_points) == pytest.approx(0, abs=1e-7)
    assert label_w1(*as_points) == pytest.approx(0)
    assert anchored_distance(differ(shuffled, labels), teacher) > 0.5


@many_seeds
@given(seeds)
def test_anchored_distance_is_the_optimal_assignment_under_its_documented_cost(seed: int) -> None:
    rng = np.random.default_rng(seed)
    teacher, loss = rng.random((25, 3)), rng.random((25, 25))
    squares = ((teacher[:, None] - teacher[None]) ** 2).sum(axis=2)
    cost = loss + squares / squares.mean()
    best = cost[linear_sum_assignment(cost)].mean()
    assert anchored_distance(loss, teacher) == pytest.approx(np.sqrt(best), abs=1e-7)


def test_anchored_distance_ignores_the_scale_of_the_logits(rng: np.random.Generator) -> None:
    """Quartering the logits of answers that are partly wrong moves the marginal distance only."""
    logits = rng.normal(scale=3, size=(300, 6))
    teacher = expit(logits)
    noisy = logits + rng.normal(scale=1, size=logits.shape)
    assert exact_w(expit(noisy / 4), teacher) > 1.2 * exact_w(expit(noisy), teacher)
    before, after = (
        anchored_distance(differ(z > 0, logits > 0), teacher) for z in (noisy, noisy / 4)
    )
    assert before == after > 0.1


def test_anchored_distance_ignores_the_unit_of_the_teacher(
    teacher: np.ndarray, rng: np.random.Generator
) -> None:
    labels = teacher > 0.5
    loss = differ(labels ^ (rng.random(labels.shape) < 0.1), labels)
    before, after = (anchored_distance(loss, scale * teacher) for scale in (1, 0.1))
    assert before == pytest.approx(after)


@many_seeds
@given(seeds, st.floats(0, 1))
def test_anchored_distance_is_at_most_the_root_of_the_mean_loss(seed: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    teacher = rng.random((60, 4))
    labels = teacher > 0.5
    answers = labels.copy()
    answers[:, 0] ^= rng.random(60) < share
    disagreement = (answers != labels).any(axis=1).mean()
    found = anchored_distance(differ(answers, labels), teacher)
    assert found <= np.sqrt(disagreement) + 1e-7


def test_a_teacher_that_says_the_same_of_all_rows_anchors_nothing() -> None:
    labels = np.array([[True], [False]])
    assert anchored_distance(differ(labels, ~labels), np.ones((2, 1))) == pytest.approx(0)
