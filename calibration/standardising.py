"""The standardising of columns: mean and scale, from rows that are read in chunks."""

from __future__ import annotations

import numpy as np

from calibration.encoded_rows import EncodedRows
from models.preprocessing import NumberPreprocessing

ROWS = 4096  # taken together
FLAT = 1e-9  # deviations below this share of the mean are rounding: the column is constant


def standardising(rows: EncodedRows) -> NumberPreprocessing:
    """Mean and standard deviation of every column; a constant column keeps its scale.

    The chunks' moments are merged as in Chan, Golub and LeVeque, "Updating formulae and a pairwise
    algorithm for computing sample variances", 1979.

    Parameters
    ----------
    rows : vectors, (n, d), not standardised
    """
    count = 0
    mean: np.ndarray = np.zeros(1)
    squares: np.ndarray = np.zeros(1)  # sum of squared deviations from the mean, (d,)
    for batch in rows.in_order(ROWS):
        values = batch.tensors[0].astype(np.float64)  # (b, d)
        size, center = len(values), values.mean(0)
        shift = center - mean
        squares = squares + ((values - center) ** 2).sum(0)
        squares = squares + shift**2 * count * size / (count + size)
        mean = mean + shift * size / (count + size)
        count += size
    deviation = np.sqrt(squares / count)
    scale = np.where(deviation > FLAT * (1 + np.abs(mean)), deviation, 1.0)
    return NumberPreprocessing(mean=tuple(mean.tolist()), scale=tuple(scale.tolist()))
