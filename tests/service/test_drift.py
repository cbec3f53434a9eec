from __future__ import annotations

import numpy as np
import ot
import pytest

from calibration.live_reference import quantiles
from models.live_reference import LiveReference
from service.drift import FEWEST, WINDOW, Drift, w1, w1_noise

LABELS, REFERENCE_ROWS = 3, 4000


def probabilities(seed: int, rows: int, shift: float = 1.0) -> np.ndarray:
    """Most near 0, some near 1, each label in its own way: (n, L)."""
    rng = np.random.default_rng(seed)
    return rng.beta([0.1, 0.3, 1.0], [shift, 2.0, 3.0], (rows, LABELS))


@pytest.fixture(scope="module")
def reference() -> LiveReference:
    rows = probabilities(0, REFERENCE_ROWS)
    return LiveReference(
        limits=(),
        rows=REFERENCE_ROWS,
        probabilities=tuple(map(quantiles, rows.T)),
        scores=quantiles(rows.max(axis=1)),
    )


def seen(reference: LiveReference, rows: np.ndarray) -> Drift:
    drift = Drift(reference)
    drift.see(rows, rows.max(axis=1))
    return drift


def test_w1_is_the_one_of_optimal_transport() -> None:
    live, old = probabilities(1, WINDOW, shift=0.3), probabilities(2, REFERENCE_ROWS)
    exact = ot.wasserstein_1d(live, old, p=1)
    kept = np.column_stack([quantiles(column) for column in old.T])
    np.testing.assert_allclose(w1(live, kept), exact, atol=0.01)


def test_the_noise_is_what_two_samples_of_one_law_differ_by(reference: LiveReference) -> None:
    figures = [seen(reference, probabilities(seed, WINDOW)).figures for seed in range(10, 50)]
    found = np.mean([f.labels for f in figures if f], axis=0)
    expected = figures[0].labels_noise if figures[0] else 0
    # one reference for all: its own error does not average out
    np.testing.assert_allclose(found, expected, rtol=0.5)
    scores = np.mean([f.score for f in figures if f])
    assert scores == pytest.approx(figures[0].score_noise if figures[0] else 0, rel=0.5)


def test_another_distribution_is_far_above_the_noise(reference: LiveReference) -> None:
    figures = seen(reference, probabilities(3, WINDOW, shift=0.2)).figures
    assert figures is not None
    ratio = figures.labels / figures.labels_noise
    assert ratio[0] > 10
    assert (ratio[1:] < 4).all()


def test_with_few_rows_nothing_is_said_and_old_rows_are_forgotten(reference: LiveReference) -> None:
    drift = seen(reference, probabilities(4, FEWEST - 1, shift=0.2))
    assert drift.figures is None
    drift.see(probabilities(5, 1), np.zeros(1))
    before = drift.figures
    drift.see(probabilities(6, WINDOW), np.ones(WINDOW))
    after = drift.figures
    assert before is not None
    assert after is not None
    assert before.labels[0] > 5 * after.labels[0]


def test_fewer_rows_are_noisier(reference: LiveReference) -> None:
    grid = np.column_stack(reference.probabilities)
    assert (w1_noise(grid, 100, 4000) > 2 * w1_noise(grid, 1000, 4000)).all()
