"""Losses between label sets: of a row's answer towards its target."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from models.manifest import GuaranteeKind


def set_loss(loss: GuaranteeKind, answers: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Loss of each answer towards its target: bool (n, L) twice -> float (n,).

    In [0, 1], but for micro-f1: a quotient of sums over all rows is no mean of rows. There a row
    counts its differing labels over the mean size of an answer and a target together, so that the
    mean over the rows is 1 - F1; a single row may count more than 1.
    """
    if loss == "set-agreement":
        return np.asarray((answers != target).any(axis=1), float)
    if loss == "hamming":
        return np.asarray((answers != target).mean(axis=1))
    if loss == "sample-f1":
        return np.asarray(1.0 - sample_f1(answers, target))
    return np.asarray((answers != target).sum(axis=1) / mean_sizes(answers, target))


def sample_f1(answers: np.ndarray, target: np.ndarray) -> np.ndarray:
    """F1 of each label set, bool (n, L) twice -> float (n,); F1 of nothing against nothing is 1."""
    return f1((answers & target).sum(axis=1), answers.sum(axis=1), target.sum(axis=1))


def f1(hits: np.ndarray, found: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """F1 by the sizes of intersection, answer and target; 1 where both are empty."""
    total = found + wanted
    return np.asarray(np.where(total > 0, 2.0 * hits / np.maximum(total, 1), 1.0))


def mean_sizes(answers: np.ndarray, target: np.ndarray) -> float:
    """Mean size of an answer and a target together; at least one label in all rows."""
    total = answers.sum() / len(answers) + target.sum() / len(target)
    return float(max(total, 1 / len(answers)))
