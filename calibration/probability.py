"""Probability calibration of one exit: Platt scaling and label thresholds."""

from __future__ import annotations

import numpy as np
from scipy.special import expit

from models.heads import HeadCalibration

THRESHOLD_RANGE = (0.05, 0.95)  # keeps the score's denominator away from zero


def calibrate_head(logits: np.ndarray, labels: np.ndarray) -> HeadCalibration:
    """Fit Platt scaling and the F1-best threshold of every label.

    Parameters
    ----------
    logits : float (n, L), of rows that no head was trained on
    labels : bool (n, L)

    Notes
    -----
    Platt, "Probabilistic outputs for support vector machines", 1999, with his smoothed targets.
    """
    fits = [_platt(logits[:, k], labels[:, k]) for k in range(logits.shape[1])]
    scale, offset = (np.array(values) for values in zip(*fits, strict=True))
    probabilities = expit(scale * logits + offset)
    thresholds = [_best_threshold(probabilities[:, k], labels[:, k]) for k in range(len(scale))]
    return HeadCalibration(scale, offset, np.array(thresholds))


def _platt(logits: np.ndarray, positive: np.ndarray) -> tuple[float, float]:
    """Scale and offset of one label; a label that never or always occurs keeps its logits."""
    from sklearn.linear_model import LogisticRegression

    positives = int(positive.sum())
    negatives = len(positive) - positives
    if not positives or not negatives:
        return 1.0, 0.0
    # smoothed targets: each row counts as both outcomes, weighted
    target = np.where(positive, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    model = LogisticRegression(C=1e6, max_iter=1000)
    model.fit(
        np.concatenate([logits, logits])[:, None],
        np.repeat([1, 0], len(logits)),
        sample_weight=np.concatenate([target, 1 - target]),
    )
    scale = float(model.coef_[0, 0])
    # a head that ranks a label backwards tells nothing about it: keep the base rate
    if scale <= 0:
        return 0.0, float(np.log(positives / negatives))
    return scale, float(model.intercept_[0])


def _best_threshold(probability: np.ndarray, positive: np.ndarray) -> float:
    """The threshold with the best F1, half-way between the probabilities on its two sides."""
    if not positive.any():
        return 0.5
    order = np.argsort(-probability, kind="stable")
    sorted_probability = probability[order]
    hits = np.cumsum(positive[order])
    f1 = 2 * hits / (np.arange(1, len(order) + 1) + positive.sum())
    f1[:-1][sorted_probability[:-1] == sorted_probability[1:]] = -1  # ties cannot be parted
    best = int(np.argmax(f1))
    below = sorted_probability[best + 1] if best + 1 < len(order) else 0.0
    return float(np.clip((sorted_probability[best] + below) / 2, *THRESHOLD_RANGE))
