"""All W-distances between two label-space distributions of one split, with their intervals."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from calibration.resampling import Resampled, Resamples
from calibration.transport import bures_w, exact_w, label_w1, on_device, sinkhorn_w, sliced_w
from models.measurements import Distances, Estimate

if TYPE_CHECKING:
    from calibration.transport import Points

HALVINGS = 5

Metrics = Mapping[str, Callable[["Points", "Points"], float]]
SAMPLED: Metrics = {"w2": exact_w, "w1": partial(exact_w, order=1), "sinkhorn": sinkhorn_w}
"""What is too expensive for all rows at once."""


@dataclass(frozen=True)
class Measured:
    """Distances, and W2 with its replicates, one per draw."""

    distances: Distances
    w2: Resampled


def measure(
    points: np.ndarray, target: np.ndarray, resamples: Resamples, device: str = "cpu"
) -> Measured:
    """All W-distances between a layer's probabilities and their target.

    W2, W1 and Sinkhorn are means over the parts; sliced, Bures and per label are over all rows.
    All spread as over the draws. Nothing is solved where the two are identical.

    Parameters
    ----------
    points, target : float (n, L); row i of both belongs to the same input
    resamples : of these n rows
    device : cpu or cuda

    Raises
    ------
    CalibrationError
        See `on_device`.
    """
    if np.array_equal(points, target):
        return _nothing(points.shape[1], resamples)
    whole = _whole(resamples.seed)

    def pair(rows: np.ndarray | slice) -> tuple[Points, Points]:
        return on_device(points[rows], device), on_device(target[rows], device)

    parts = [_apply(SAMPLED, pair(rows)) for rows in resamples.parts]
    draws = [_apply({**SAMPLED, **whole}, pair(rows)) for rows in resamples.draws]
    everything = pair(slice(None))
    resampled = _resampled(parts, draws, resamples.rows, resamples.part_rows)
    resampled |= _resampled([_apply(whole, everything)], draws, resamples.rows, resamples.total)
    return Measured(_distances(resampled, label_w1(*everything)), resampled["w2"])


def measure_distances(
    points: np.ndarray, target: np.ndarray, resamples: Resamples, device: str = "cpu"
) -> Distances:
    """The distances alone, see `measure`."""
    return measure(points, target, resamples, device).distances


def exact_estimate(points: np.ndarray, target: np.ndarray, resamples: Resamples) -> Estimate:
    """W2 alone, as `measure` gives it."""
    if np.array_equal(points, target):
        return Estimate(value=0.0, low=0.0, high=0.0)
    parts, draws = (
        [_apply({"w2": exact_w}, (points[rows], target[rows])) for rows in sets]
        for sets in (resamples.parts, resamples.draws)
    )
    return _resampled(parts, draws, resamples.rows, resamples.part_rows)["w2"].estimate()


def noise_floor(target: np.ndarray, seed: int, device: str = "cpu") -> Distances:
    """The distances between two disjoint halves of the same rows: what equal laws give.

    Means over random halvings, with the interval of such a mean. W2, W1 and Sinkhorn are on at most
    as many rows of each half as a distance between answers and their target.

    Parameters
    ----------
    target : float (n, L)
    seed : draws the halves and the directions
    device : cpu or cuda

    Raises
    ------
    CalibrationError
        When there are fewer than two rows; and see `on_device`.
    """
    total = len(target)
    half = total // 2
    rows = min(Resamples.of(total, seed).rows, half)
    whole = _whole(seed)
    rng = np.random.default_rng(seed)
    values, per_label = [], []
    for _ in range(HALVINGS):
        order = rng.permutation(total)
        one, other = (
            on_device(target[part], device) for part in (order[:half], order[half : 2 * half])
        )
        values.append(_apply(SAMPLED, (one[:rows], other[:rows])) | _apply(whole, (one, other)))
        per_label.append(label_w1(one, other))
    sampled = [{name: of_halving[name] for name in SAMPLED} for of_halving in values]
    resampled = _resampled(values, values, total, total)
    resampled |= _resampled(sampled, values, 2 * rows, min(total, 2 * rows * HALVINGS))
    return _distances(resampled, np.mean(per_label, axis=0))


def _whole(seed: int) -> Metrics:
    """What is cheap enough for all rows."""
    return {"sliced": partial(sliced_w, seed=seed), "bures": bures_w}


def _apply(metrics: Metrics, pair: tuple[Points, Points]) -> dict[str, float]:
    return {name: metric(*pair) for name, metric in metrics.items()}


def _resampled(
    values: list[dict[str, float]], replicates: list[dict[str, float]], drawn: int, rows: int
) -> dict[str, Resampled]:
    """The mean of the values, with `rows` behind it, for every distance that has values."""
    return {
        name: Resampled(
            value=float(np.mean([of_part[name] for of_part in values])),
            replicates=np.array([of_draw[name] for of_draw in replicates]),
            drawn=drawn,
            rows=rows,
        )
        for name in values[0]
    }


def _distances(resampled: Mapping[str, Resampled], per_label: np.ndarray) -> Distances:
    estimates = {name: spread.estimate() for name, spread in resampled.items()}
    return Distances(**estimates, per_label=tuple(per_label.tolist()))


def _nothing(labels: int, resamples: Resamples) -> Measured:
    nothing = Resampled(0.0, np.zeros(len(resamples.draws)), resamples.rows, resamples.total)
    names = (*SAMPLED, *_whole(resamples.seed))
    return Measured(_distances(dict.fromkeys(names, nothing), np.zeros(labels)), nothing)
