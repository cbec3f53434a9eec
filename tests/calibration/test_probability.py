from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit
from sklearn.metrics import f1_score

from calibration.probability import calibrate_head


@pytest.fixture
def sample() -> tuple[np.ndarray, np.ndarray]:
    """Logits that are three times too confident and shifted by one."""
    rng = np.random.default_rng(0)
    true_logits = rng.normal(scale=2, size=(8000, 3)) - np.array([0, 1, 3])
    return 3 * (true_logits + 1), rng.random(true_logits.shape) < expit(true_logits)


def test_platt_scaling_finds_the_scale_and_the_shift(
    sample: tuple[np.ndarray, np.ndarray],
) -> None:
    head = calibrate_head(*sample)
    np.testing.assert_allclose(head.scale, 1 / 3, rtol=0.1)
    np.testing.assert_allclose(head.offset, -1, atol=0.15)


def test_thresholds_are_best_in_f1(sample: tuple[np.ndarray, np.ndarray]) -> None:
    logits, labels = sample
    head = calibrate_head(logits, labels)
    probabilities = expit(head.scale * logits + head.offset)
    for k, threshold in enumerate(head.thresholds):
        chosen = f1_score(labels[:, k], probabilities[:, k] >= threshold)
        others = [
            f1_score(labels[:, k], probabilities[:, k] >= t) for t in np.linspace(0.06, 0.94, 23)
        ]
        assert chosen >= max(others) - 1e-12


@pytest.mark.parametrize("always", [True, False])
def test_a_label_without_both_outcomes_keeps_its_logits(always: bool) -> None:
    logits = np.random.default_rng(0).normal(size=(50, 1))
    head = calibrate_head(logits, np.full((50, 1), always))
    assert (head.scale[0], head.offset[0]) == (1, 0)
    assert 0 < head.thresholds[0] < 1


def test_a_head_that_ranks_backwards_is_silenced() -> None:
    rng = np.random.default_rng(0)
    labels = rng.random((500, 1)) < 0.2
    logits = -5.0 * labels + rng.normal(size=(500, 1))
    head = calibrate_head(logits, labels)
    assert head.scale[0] == 0
    assert expit(head.offset[0]) == pytest.approx(labels.mean())
