"""Drift: how far live answers are from those of the certify split, label by label, by W1."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from models.live_reference import LEVELS, LiveReference

WINDOW = 1024
"""Rows that are compared, the last ones."""
FEWEST = 64
"""With fewer rows nothing is said."""


@dataclass(frozen=True)
class DriftFigures:
    """W1 distances in the unit of the probabilities, and what chance alone gives in the mean.

    labels, labels_noise : float (L,)
    """

    labels: np.ndarray
    labels_noise: np.ndarray
    score: float
    score_noise: float


class Drift:
    """The last rows drawn, and the reference that they are compared with."""

    def __init__(self, reference: LiveReference) -> None:
        # scores are one more column
        self._reference = np.column_stack([*reference.probabilities, reference.scores])
        self._reference_rows = reference.rows
        self._window = np.zeros((WINDOW, self._reference.shape[1]), np.float32)
        self._seen = 0

    def see(self, probabilities: np.ndarray, scores: np.ndarray) -> None:
        """The answers to some rows: (b, L), (b,)."""
        for row, score in zip(probabilities, scores, strict=True):
            place = self._window[self._seen % WINDOW]
            place[:-1], place[-1] = row, score
            self._seen += 1

    @property
    def figures(self) -> DriftFigures | None:
        """None while too few rows were seen."""
        if self._seen < FEWEST:
            return None
        live = self._window[: min(self._seen, WINDOW)]
        distances = w1(live, self._reference)
        noise = w1_noise(self._reference, len(live), self._reference_rows)
        return DriftFigures(distances[:-1], noise[:-1], float(distances[-1]), float(noise[-1]))


def w1(live: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """W1 of every column: (n, C), quantiles (LEVELS, C) -> float (C,).

    In one dimension it is the mean distance of the quantiles.
    """
    levels = (np.arange(LEVELS) + 0.5) / LEVELS
    found = np.quantile(live.astype(float), levels, axis=0, method="inverted_cdf")
    return np.asarray(np.abs(found - reference).mean(axis=0))


def w1_noise(reference: np.ndarray, rows: int, reference_rows: int) -> np.ndarray:
    r"""The mean W1 of two samples of the reference's own law: float (C,).

    W1 is the integral of the distance of the distribution functions, which at x is nearly normal
    with variance F (1 - F) (1 / n + 1 / m):

    .. math:: \sqrt{2 / \pi} \, \sqrt{1 / n + 1 / m} \int \sqrt{F (1 - F)} \, dx
    """
    below = (np.arange(1, LEVELS) / LEVELS)[:, None]
    spread = (np.sqrt(below * (1 - below)) * np.diff(reference, axis=0)).sum(axis=0)
    return np.asarray(np.sqrt(2 / np.pi * (1 / rows + 1 / reference_rows)) * spread)
