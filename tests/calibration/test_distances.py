from __future__ import annotations

import numpy as np
import pytest

from calibration import distances as distances_module
from calibration.distances import exact_estimate, measure, measure_distances, noise_floor
from calibration.resampling import Resamples
from calibration.transport import bures_w, exact_w, label_w1, sinkhorn_w, sliced_w
from models.errors import CalibrationError
from models.measurements import Distances, Estimate

NAMES = ("w2", "w1", "sliced", "bures", "sinkhorn")


def estimates(distances: Distances) -> dict[str, Estimate]:
    return {name: getattr(distances, name) for name in NAMES}


def answers_and_labels(rows: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.random((rows, 4)) < 0.3
    answers = np.clip(0.5 * labels + rng.beta(1, 4, labels.shape), 0, 1)
    return answers.astype(np.float32), labels.astype(np.float32)


def test_values_are_means_over_parts_or_over_all_rows() -> None:
    answers, labels = answers_and_labels(700)
    resamples = Resamples.of(700, seed=5, rows=100)
    found = measure_distances(answers, labels, resamples)
    pairs = [(answers[rows], labels[rows]) for rows in resamples.parts]
    assert found.w2.value == pytest.approx(np.mean([exact_w(*pair) for pair in pairs]))
    assert found.w1.value == pytest.approx(np.mean([exact_w(*pair, order=1) for pair in pairs]))
    assert found.sinkhorn.value == pytest.approx(np.mean([sinkhorn_w(*pair) for pair in pairs]))
    assert found.sliced.value == pytest.approx(sliced_w(answers, labels, seed=5))
    assert found.bures.value == pytest.approx(bures_w(answers, labels))
    assert found.per_label == pytest.approx(tuple(label_w1(answers, labels)))


def test_every_interval_is_around_its_value_and_has_a_width() -> None:
    answers, labels = answers_and_labels(700)
    for estimate in estimates(
        measure_distances(answers, labels, Resamples.of(700, seed=0, rows=100))
    ).values():
        assert 0 < estimate.low < estimate.value < estimate.high


def test_all_of_a_shift_is_seen_by_every_distance() -> None:
    _, labels = answers_and_labels(300)
    moved = measure_distances(labels + 0.25, labels, Resamples.of(300, seed=0, rows=100))
    for estimate in estimates(moved).values():
        assert estimate.value == pytest.approx(0.5, rel=1e-3)
    assert moved.per_label == pytest.approx([0.25] * 4)


def test_identical_answers_are_not_solved(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object) -> float:
        raise AssertionError("nothing is to be solved")

    monkeypatch.setattr(distances_module, "_apply", forbidden)
    answers, labels = answers_and_labels(50)
    resamples = Resamples.of(50, seed=0)
    same = measure_distances(answers, answers.copy(), resamples)
    nothing = Estimate(value=0, low=0, high=0)
    assert estimates(same) == dict.fromkeys(NAMES, nothing)
    assert same.per_label == (0, 0, 0, 0)
    assert exact_estimate(answers, answers.copy(), resamples) == nothing
    with pytest.raises(AssertionError):
        measure_distances(answers, labels, resamples)


def test_the_exact_estimate_alone_is_the_same() -> None:
    answers, labels = answers_and_labels(300)
    resamples = Resamples.of(300, seed=0, rows=80)
    alone = exact_estimate(answers, labels, resamples)
    assert alone == measure_distances(answers, labels, resamples).w2
    assert measure(answers, labels, resamples).w2.estimate() == alone


@pytest.mark.parametrize("name", NAMES)
def test_the_noise_floor_is_the_distance_of_two_equal_laws(name: str) -> None:
    target, _ = answers_and_labels(800)
    floor = estimates(noise_floor(target, seed=0))[name]
    others = [
        estimates(
            measure_distances(
                answers_and_labels(400, seed)[0],
                answers_and_labels(400, seed + 100)[0],
                Resamples.of(400, seed, draws=2),
            )
        )[name].value
        for seed in range(1, 6)
    ]
    assert floor.value == pytest.approx(np.mean(others), rel=0.25)
    assert floor.low < floor.value < floor.high


def test_the_noise_floor_falls_with_rows() -> None:
    small, large = (noise_floor(answers_and_labels(rows)[0], seed=0) for rows in (60, 960))
    for name in NAMES:
        assert estimates(large)[name].value < 0.8 * estimates(small)[name].value
    assert sum(large.per_label) < 0.5 * sum(small.per_label)


def test_halves_share_no_row() -> None:
    """Of rows that are all far apart, not one has a partner at no distance."""
    target = np.arange(40.0)[:, None]
    floor = noise_floor(target, seed=0)
    assert floor.w1.value >= 1
    assert floor.per_label[0] >= 1


def test_exact_distances_of_the_floor_are_bounded_by_sub_samples(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sizes = []

    def spy(points: np.ndarray, target: np.ndarray) -> float:
        sizes.append((len(points), len(target)))
        return 1.0

    monkeypatch.setattr(distances_module, "SAMPLED", dict.fromkeys(("w2", "w1", "sinkhorn"), spy))
    noise_floor(answers_and_labels(3000)[0], seed=0)
    assert set(sizes) == {(500, 500)}


def test_one_row_has_no_floor() -> None:
    with pytest.raises(CalibrationError, match="at least 2 rows"):
        noise_floor(np.zeros((1, 3)), seed=0)
