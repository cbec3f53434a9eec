"""Losses between label sets, of all pairs of rows; those of single rows are the models' own."""

from __future__ import annotations

import numpy as np

from models.manifest import GuaranteeKind
from models.set_losses import f1, mean_sizes


def pairwise_loss(loss: GuaranteeKind, answers: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Loss of every answer towards every target: bool (n, L), (m, L) -> float (n, m).

    With n = m its diagonal is `set_loss`.
    """
    if loss == "set-agreement":
        _, sets = np.unique(np.concatenate([answers, target]), axis=0, return_inverse=True)
        return np.asarray(sets[: len(answers), None] != sets[None, len(answers) :], float)
    hits = answers.astype(np.float32) @ target.T.astype(np.float32)
    found, wanted = answers.sum(axis=1)[:, None], target.sum(axis=1)[None]
    if loss == "sample-f1":
        return 1.0 - f1(hits, found, wanted)
    differing = found + wanted - 2.0 * hits
    size = answers.shape[1] if loss == "hamming" else mean_sizes(answers, target)
    return np.asarray(differing / size)
