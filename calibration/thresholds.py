"""Exit thresholds from W: one tolerance gives them all, raising it gives a path of policies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from calibration.guarantee import Guarantee
from calibration.transport import anchored_distance
from models.errors import CalibrationError
from models.policy import Policy
from models.runtime import Answers


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


@dataclass(frozen=True)
class CurveOptions:
    """How finely W_k(t) is measured."""

    rows: int = 1000  # sub-sample size; time O(points * rows^3), memory O(rows^2)
    points: int = 40  # thresholds, at equal steps of the share of rows leaving
    min_rows: int = 100  # the fewest to measure a distance on; on fewer, one loss hides all below


def threshold_curve(
    answers: Answers,
    last: Answers,
    teacher: np.ndarray,
    truth: np.ndarray,
    guarantee: Guarantee,
    rng: np.random.Generator,
    options: CurveOptions | None = None,
) -> ThresholdCurve:
    """Measure W_k(t) of one exit on a sub-sample.

    Against the model it is the distance to the last exit's answers; against labels, how much
    further from the true label sets than the last exit's answers to the same rows.

    Parameters
    ----------
    answers : the exit's, over n rows
    last : the last exit's answers to the same rows
    teacher : float (n, L), the probabilities that anchor the distance
    truth : bool (n, L), the true label sets
    """
    options = options or CurveOptions()
    if len(answers) < options.min_rows:
        raise CalibrationError(
            f"the tune split has {len(answers)} rows, expected at least {options.min_rows} to "
            "measure W on; give it more rows"
        )
    chosen = rng.choice(len(answers), min(options.rows, len(answers)), replace=False)
    order = chosen[np.argsort(-answers.score[chosen], kind="stable")]
    scores = answers.score[order]
    counts = np.unique(np.linspace(options.min_rows, len(order), options.points).astype(int))

    def distance(labels: np.ndarray, rows: np.ndarray, target: np.ndarray) -> float:
        return anchored_distance(labels[rows], target[rows], teacher[rows], guarantee.loss)

    # a threshold takes all rows of equal score with it
    thresholds = np.unique(scores[counts - 1])[::-1]
    distances = []
    for threshold in thresholds:
        leaving = order[scores >= threshold]
        if guarantee.against == "model":
            distances.append(distance(answers.labels, leaving, last.labels))
        else:
            excess = distance(answers.labels, leaving, truth)
            distances.append(excess - distance(last.labels, leaving, truth))
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
