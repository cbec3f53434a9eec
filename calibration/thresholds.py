"""Exit thresholds from W: one tolerance gives them all, raising it gives a path of policies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from calibration.transport import anchored_distance
from models.errors import CalibrationError
from models.policy import Policy
from models.runtime import Answers

if TYPE_CHECKING:
    from rich.progress import Progress


@dataclass(frozen=True)
class ThresholdCurve:
    """W_k(t) of one exit: the anchored distance over the rows with score >= t.

    thresholds : float (m,), descending
    distances : float (m,), at those thresholds
    """

    thresholds: np.ndarray
    distances: np.ndarray

    @property
    def envelope(self) -> np.ndarray:
        """Largest W_k(t') over t' >= t: float (m,), ascending along the descending thresholds."""
        return np.maximum.accumulate(self.distances)

    def threshold(self, tolerance: float) -> float | None:
        """t_k(w): the smallest t with W_k(t') <= w for every measured t' >= t, if there is one."""
        within = int(np.searchsorted(self.envelope, tolerance, side="right"))
        return float(self.thresholds[within - 1]) if within else None


def threshold_curve(
    answers: Answers,
    teacher: Answers,
    rng: np.random.Generator,
    rows: int = 1000,
    points: int = 40,
    min_rows: int = 100,
) -> ThresholdCurve:
    """Measure W_k(t) on a sub-sample.

    Parameters
    ----------
    answers : the exit's, over n rows
    teacher : full depth's answers to the same rows
    rows : sub-sample size; time O(points * rows^3), memory O(rows^2)
    points : thresholds, at equal steps of the share of rows leaving
    min_rows : the fewest rows to measure a distance on; on fewer, one loss hides all below it
    """
    if len(answers) < min_rows:
        raise CalibrationError(
            f"the tune split has {len(answers)} rows, expected at least {min_rows} to measure W "
            "on; give it more rows"
        )
    chosen = rng.choice(len(answers), min(rows, len(answers)), replace=False)
    order = chosen[np.argsort(-answers.score[chosen], kind="stable")]
    scores = answers.score[order]
    counts = np.unique(np.linspace(min_rows, len(order), points).astype(int))
    # a threshold takes all rows of equal score with it
    thresholds = np.unique(scores[counts - 1])[::-1]
    distances = []
    for threshold in thresholds:
        leaving = order[scores >= threshold]
        distances.append(
            anchored_distance(
                answers.labels[leaving], teacher.labels[leaving], teacher.probabilities[leaving]
            )
        )
    return ThresholdCurve(thresholds.astype(float), np.array(distances))


def policy_path(curves: Sequence[ThresholdCurve]) -> list[Policy]:
    """Every policy that some tolerance w gives, from the smallest w to the largest.

    Each policy's thresholds are at most those of the one before it. Full depth, where nobody leaves
    early and nothing is lost, comes before the path and is not on it.

    Parameters
    ----------
    curves : K - 1, one per exit but the last
    """
    if not curves:
        return []
    tolerances = np.unique(np.concatenate([curve.envelope for curve in curves]))
    policies = [Policy(tuple(curve.threshold(w) for curve in curves)) for w in tolerances]
    return list(dict.fromkeys(policies))


def measure_path(
    answers: Sequence[Answers], rng: np.random.Generator, progress: Progress
) -> tuple[list[ThresholdCurve], list[Policy]]:
    """Curves and path of a bundle from every exit's answers (K) on the tune split."""
    curves = [
        threshold_curve(exit_answers, answers[-1], rng)
        for exit_answers in progress.track(answers[:-1], description="W of thresholds")
    ]
    return curves, policy_path(curves)
