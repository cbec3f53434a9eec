"""Exit thresholds from W: one price gives them all, raising it gives a path of policies.

For exit k, w_k(t) is the teacher-anchored W-distance between the answers to the rows whose score
lies in a band at t and the target's answers to the same rows, in excess of what the last exit's
answers cost: what it loses that those rows leave at k. An exit that saves more time may lose more;
one price, W per share of saved time, gives the thresholds of all exits.

A tolerance on W over all rows with score >= t was tried instead. It equalises averages, where the
next row to leave is what a policy decides about: with four exits, its path cost at equal micro-F1
1.07 of the best baseline's on GoEmotions and 1.21 on bibtex (divided by the time saved: 1.21 and
1.02), that of the bands 1.09 and 1.02. At the exits that are placed by default the bands stay
within 1.05 (docs/results.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from calibration.guarantee import Guarantees
from calibration.losses import pairwise_loss
from calibration.transport import anchored_distance
from models.errors import CalibrationError
from models.policy import Policy
from models.runtime import Answers

FEWEST_ROWS = 20  # of a tune split, to measure anything on
BAND_ROWS = 10  # the fewest in a band
BANDS = 80  # the most


@dataclass(frozen=True)
class WCurve:
    """w_k(t) of one exit, by bands of rows in descending order of their score.

    thresholds : float (m,), descending: each lets its band and those before it leave; the last is 0
    distances : float (m,), of each band
    rows : int (m,), in each band
    """

    thresholds: np.ndarray
    distances: np.ndarray
    rows: np.ndarray

    @property
    def envelope(self) -> np.ndarray:
        """The ascending curve nearest to the distances, weighted by rows: float (m,).

        A lower score should not lose less; where it does, isotonic regression takes the bands
        together, so that one loss among the few surest rows does not close the exit for all others.
        """
        from sklearn.isotonic import isotonic_regression

        return np.asarray(isotonic_regression(self.distances, sample_weight=self.rows))


def threshold_curve(
    answers: Answers,
    last: Answers,
    target: np.ndarray,
    teacher: np.ndarray,
    guarantees: Guarantees,
    bands: int = BANDS,
) -> WCurve:
    """Measure w_k(t) of one exit on all rows.

    Time O(n^2 / bands) beside the sorting, memory O((n / bands)^2).

    Parameters
    ----------
    answers : the exit's, over n rows
    last : the last exit's answers to the same rows
    target : bool (n, L): the full model's label sets, or the true ones
    teacher : float (n, L), the probabilities that anchor the distance

    Raises
    ------
    CalibrationError
        When there are too few rows.
    """
    if len(answers) < FEWEST_ROWS:
        raise CalibrationError(
            f"the tune split has {len(answers)} rows, expected at least {FEWEST_ROWS} to measure "
            "W on; give it more rows"
        )
    order = np.argsort(-answers.score, kind="stable")
    scores = answers.score[order]
    bands = min(bands, len(order) // BAND_ROWS)
    ends = np.linspace(0, len(order), bands + 1).astype(int)[1:]
    # a threshold takes all rows of equal score with it
    ends = np.unique(np.searchsorted(-scores, -scores[ends - 1], side="right"))

    def distance(labels: np.ndarray, band: np.ndarray) -> float:
        return anchored_distance(_pair_cost(guarantees, labels[band], target[band]), teacher[band])

    distances = [
        distance(answers.labels, band) - distance(last.labels, band)
        for band in np.split(order, ends[:-1])
    ]
    thresholds = np.append(scores[ends[:-1] - 1], 0.0)
    return WCurve(thresholds.astype(float), np.array(distances), np.diff(ends, prepend=0))


def policy_path(curves: Sequence[WCurve], saved: Sequence[float] | np.ndarray) -> list[Policy]:
    """Policies of a rising price, from cautious to eager.

    At price p, t_k(p) is the smallest threshold whose envelope is at most p times the time that
    leaving at exit k saves. Bands that are open at the same price are opened one by one, from the
    higher score to the lower, so that the path has no jumps. Each policy's thresholds are at most
    those of the one before it. Full depth, where nobody leaves early and nothing is lost, comes
    before the path and is not on it.

    Parameters
    ----------
    curves : K - 1, one per exit but the last
    saved : K - 1 shares of the whole model's time, from the exit to the last exit; above 0
    """
    opened = sorted(
        (price, number, -threshold)
        for number, (curve, time) in enumerate(zip(curves, saved, strict=True))
        for price, threshold in zip(curve.envelope / time, curve.thresholds, strict=True)
    )
    thresholds: list[float | None] = [None] * len(curves)
    path = []
    for _, number, negative in opened:
        thresholds[number] = -negative
        path.append(Policy(tuple(thresholds)))
    return path


def _pair_cost(guarantees: Guarantees, answers: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Loss of every answer towards every target, (n, n); of several losses, the one nearest to its
    epsilon, in units of the first.
    """
    first = guarantees.promises[0].epsilon
    costs = [
        pairwise_loss(promise.loss, answers, target) * (first / promise.epsilon)
        for promise in guarantees.promises
    ]
    cost: np.ndarray = np.maximum.reduce(costs)
    return cost
