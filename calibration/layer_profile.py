"""The profile of candidate layers: W-distances to teacher and labels, quality, stability."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from calibration.distances import exact_estimate, measure, measure_distances, noise_floor
from calibration.quality import label_f1, micro_f1
from calibration.resampling import Resampled, Resamples
from models.machine import available_cores
from models.measurements import Estimate, LayerProfile, Profile, Stability

if TYPE_CHECKING:
    from rich.progress import Progress

    from models.runtime import Answers

__all__ = ["exact_estimate", "measure_distances", "noise_floor", "profile_layers"]

FEWEST_LAYERS = 3  # of a rank correlation

T = TypeVar("T")


def profile_layers(
    layers: Sequence[tuple[str, float]],
    answers: Sequence[Answers],
    teacher: np.ndarray,
    truth: np.ndarray,
    seed: int,
    progress: Progress,
    device: str = "cpu",
    noise: Sequence[float] | None = None,
    seeds: Sequence[float] | None = None,
) -> Profile:
    """Measure all candidate layers on one split, on the same sub-samples.

    Layers are measured side by side, on as many threads as there are cores: POT and numpy leave
    Python's lock while they compute.

    Parameters
    ----------
    layers : name, and milliseconds of the stage that ends there; in depth order
    answers : one per layer, over n rows
    teacher : float (n, L), the target distribution's probabilities
    truth : bool (n, L), the true label sets
    seed : draws the sub-samples and the directions
    device : cpu or cuda
    noise, seeds : per layer, see `models.measurements.Stability`

    Raises
    ------
    CalibrationError
        When there are fewer than two rows, or there is no such device.
    """
    resamples = Resamples.of(len(truth), seed)
    targets = (teacher, truth.astype(np.float32))
    tasks = [
        partial(measure, of_layer.probabilities, target, resamples, device)
        for of_layer in answers
        for target in targets
    ]
    floors = [partial(noise_floor, target, seed, device) for target in targets]
    measured = _side_by_side(tasks, progress, "W-distances")
    floor_teacher, floor_labels = _side_by_side(floors, progress, "noise floors")
    to_teacher, to_labels = measured[::2], measured[1::2]
    quality = [_micro_f1(of_layer, truth, resamples) for of_layer in answers]
    return Profile(
        layers=tuple(
            LayerProfile(
                layer=name,
                milliseconds=milliseconds,
                to_teacher=to_teacher[k].distances,
                to_labels=to_labels[k].distances,
                micro_f1=quality[k].estimate(most=1.0),
                label_f1=tuple(label_f1(answers[k].labels, truth).tolist()),
                stability=Stability(
                    batches=to_labels[k].w2.spread,
                    seeds=None if seeds is None else seeds[k],
                    noise=None if noise is None else noise[k],
                ),
            )
            for k, (name, milliseconds) in enumerate(layers)
        ),
        batch_rows=resamples.rows,
        floor_teacher=floor_teacher,
        floor_labels=floor_labels,
        correlation=_correlation([of_layer.w2 for of_layer in to_labels], quality),
    )


def _micro_f1(answers: Answers, truth: np.ndarray, resamples: Resamples) -> Resampled:
    """Over all rows, and over each draw."""
    draws = [micro_f1(answers.labels[rows], truth[rows]) for rows in resamples.draws]
    value = micro_f1(answers.labels, truth)
    return Resampled(value, np.array(draws), resamples.rows, resamples.total)


def _correlation(w2: Sequence[Resampled], quality: Sequence[Resampled]) -> Estimate | None:
    """Spearman's correlation over the layers; its interval is its spread over the draws.

    Distances and qualities are brought to the spread of their values before they are ranked: ranks
    themselves cannot be scaled.
    """
    if len(w2) < FEWEST_LAYERS:
        return None
    value = _spearman(*(np.array([of_layer.value for of_layer in side]) for side in (w2, quality)))
    columns = [np.stack([of_layer.rescaled() for of_layer in side]).T for side in (w2, quality)]
    draws = [_spearman(*of_draw) for of_draw in zip(*columns, strict=True)]
    low, high = np.quantile(draws, [0.025, 0.975])
    return Estimate(value=value, low=min(value, float(low)), high=max(value, float(high)))


def _spearman(one: np.ndarray, other: np.ndarray) -> float:
    """Rank correlation of two vectors; 0 where one of them does not vary."""
    from scipy.stats import rankdata

    ranks = np.stack([rankdata(one), rankdata(other)])
    ranks -= ranks.mean(axis=1, keepdims=True)
    scale = np.sqrt((ranks**2).sum(axis=1).prod())
    return float(ranks[0] @ ranks[1] / scale) if scale > 0 else 0.0


def _side_by_side(
    tasks: Sequence[Callable[[], T]], progress: Progress, description: str
) -> list[T]:
    with ThreadPoolExecutor(available_cores(), thread_name_prefix="profile") as pool:
        futures = [pool.submit(task) for task in tasks]
        try:
            return [future.result() for future in progress.track(futures, description=description)]
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
