r"""Seeded sub-samples of one split, and the intervals that follow from their spread.

A distance over m of n rows is estimated by its mean over `parts`; how far another sample of rows
would have moved that mean is told by `draws`, the m-out-of-n bootstrap [1], which holds for optimal
transport where the bootstrap of all n rows does not [2]. Deviations over m rows are scaled by
:math:`\sqrt{m / n}`, with n the distinct rows behind the value: not all of the split where the
parts do not hold all (scaling by those, intervals covered 72 % where these covered 97 %).

References
----------
[1] Politis and Romano, "Large sample confidence regions based on subsamples under minimal
    assumptions", Annals of Statistics 22, 1994.
[2] Sommerfeld and Munk, "Inference for empirical Wasserstein distances on finite spaces", Journal
    of the Royal Statistical Society B 80, 2018.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from models.errors import CalibrationError
from models.measurements import Estimate

ROWS = 500
PARTS = 5
DRAWS = 20
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Resamples:
    """Index sets of one split. All layers share them: their order would be noise otherwise.

    Attributes
    ----------
    total : n, rows of the split
    seed : drew them
    parts : int (m,) each, without replacement, and disjoint as far as n allows; a single one where
        it holds all rows
    draws : int (m,) each, with replacement
    """

    total: int
    seed: int
    parts: tuple[np.ndarray, ...]
    draws: tuple[np.ndarray, ...]

    @classmethod
    def of(
        cls, total: int, seed: int, rows: int = ROWS, parts: int = PARTS, draws: int = DRAWS
    ) -> Resamples:
        """Draw sub-samples of min(rows, total) rows.

        Raises
        ------
        CalibrationError
            When the split has fewer than two rows.
        """
        if total < 2:
            raise CalibrationError(
                f"W-distances need at least 2 rows in a split, found {total}: give more rows, or "
                "another division into splits"
            )
        size = min(rows, total)
        rng = np.random.default_rng(seed)
        # windows of one permutation, from its start again where it ends
        order = np.tile(rng.permutation(total), 2)
        starts = [part * size % total for part in range(parts if size < total else 1)]
        return cls(
            total,
            seed,
            tuple(order[start : start + size] for start in starts),
            tuple(rng.integers(0, total, size) for _ in range(draws)),
        )

    @property
    def rows(self) -> int:
        """m, of every sub-sample."""
        return len(self.parts[0])

    @property
    def part_rows(self) -> int:
        """Rows that are in any part: those behind the mean over the parts."""
        return min(self.total, self.rows * len(self.parts))


@dataclass(frozen=True)
class Resampled:
    """A measured value of 0 or more, and what draws of rows say of its spread.

    Attributes
    ----------
    value : over all rows, or the mean over parts
    replicates : float (R,), the same over each draw; R at least 2
    drawn : m, rows behind a replicate
    rows : n, distinct rows behind the value
    """

    value: float
    replicates: np.ndarray
    drawn: int
    rows: int

    @property
    def spread(self) -> float:
        """Standard deviation over batches of m rows."""
        return float(np.std(self.replicates, ddof=1))

    def rescaled(self) -> np.ndarray:
        """The replicates as they would lie around the value, had they its n rows: float (R,).

        They are centred: the repeated rows of a draw move all its distances to one side.
        """
        deviations = self.replicates - self.replicates.mean()
        return np.asarray(self.value + np.sqrt(self.drawn / self.rows) * deviations)

    def estimate(self, most: float = float("inf")) -> Estimate:
        """The value with its 95 % interval, by Student's quantile for R replicates.

        Quantiles of R = 20 replicates themselves were tried: they cover 84 to 90 %.

        Parameters
        ----------
        most : the largest value there can be
        """
        from scipy.stats import t

        quantile = float(t.ppf((1 + CONFIDENCE) / 2, len(self.replicates) - 1))
        half = quantile * self.spread * float(np.sqrt(self.drawn / self.rows))
        return Estimate(
            value=self.value, low=max(self.value - half, 0.0), high=min(self.value + half, most)
        )
