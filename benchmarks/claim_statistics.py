"""The five claims as statistics over trained networks, each with its interval and its verdict.

Knows nothing of training. S networks that differ in their seed answer the same test rows; K exits.

Intervals are Student's, at 95 %. Their variance is the sum of two: that of a mean over S seeds,
and that over resampled rows, which all seeds and all exits share; their degrees of freedom are by
Welch and Satterthwaite [1]. Quantiles of a bootstrap over three seeds were not taken: it has ten
different samples, and leaves out a third of the seeds' variance.

References
----------
[1] Satterthwaite, "An approximate distribution of estimates of variance components", Biometrics
    Bulletin 2, 1946.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

WITH, WITHOUT = "with auxiliary losses", "without"
BOTH = "with against without"

CLAIMS = (
    "W falls along depth",
    "W falls along epochs",
    "Deeper is not always better",
    "Layer distributions are stable",
    "Auxiliary losses help",
)
RULES = (
    "Spearman's rank correlation of exit number and W, over all exits. Held if its interval lies "
    "below 0.",
    "Spearman's rank correlation of epoch and W, for each exit on its own, over the epochs that "
    "trained its head. Held if the interval lies below 0 at every exit.",
    "W of the last exit minus W of the earlier exit that is nearest to the labels on the tune "
    "split; measured on the test split, where it was not chosen. Held if the interval lies above "
    "0. Beside it, the same for micro-F1, and in how many seeds the difference is above 0 by the "
    "seed's own interval over rows.",
    "How far W of an exit moves, as a share of the mean difference between two exits' W: its "
    "standard deviation over batches of test rows, its standard deviation over seeds, and the "
    "distance between the answers to rows and to the same rows with a little noise (1 % of the "
    "inputs' standard deviation; 2 % of the tokens), which bounds what the noise can do to W. Held "
    "if all three intervals lie below 1.",
    "W with auxiliary losses minus W without, at the same exit, seed and rows. Held if the "
    "interval lies below 0 at every exit. Beside it, the same for micro-F1, which has to lie "
    "above 0.",
)

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """A statistic and its interval, whose end may be infinite."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Sampled:
    """A measured quantity, per seed.

    values : float (S, ...)
    rows : float (S, R, ...), the same over resampled rows, as it would lie around the value
    """

    values: np.ndarray
    rows: np.ndarray

    def map(self, function: Callable[[np.ndarray], float]) -> Sampled:
        """`function` of the exits, (K,), of every seed and every resample."""
        values = np.array([function(of_seed) for of_seed in self.values])
        rows = np.array([[function(drawn) for drawn in of_seed] for of_seed in self.rows])
        return Sampled(values, rows)

    def at(self, exits: int | np.ndarray) -> Sampled:
        """One exit: the same of all seeds, or each seed's own, int (S,)."""
        chosen = np.broadcast_to(exits, len(self.values))
        seeds = np.arange(len(self.values))
        return Sampled(self.values[seeds, chosen], self.rows[seeds, :, chosen])

    def __sub__(self, other: Sampled) -> Sampled:
        """The paired difference: seed by seed, and on the same resampled rows."""
        return Sampled(self.values - other.values, self.rows - other.rows)


@dataclass(frozen=True)
class Arm:
    """What was measured of the S networks that were trained in one way.

    w, f1 : (S, K), W to the labels and micro-F1 on the test split
    tune_w, tune_f1 : float (S, K), on the tune split
    batches : float (S, K), standard deviations of W over batches of test rows
    draws : batches behind each of them
    noise : float (S, K), W between the answers to rows and to the same rows disturbed
    epochs, losses : K arrays (S, epochs), W and held-out loss of the exit after each epoch that
        trained its head
    """

    name: str
    w: Sampled
    f1: Sampled
    tune_w: np.ndarray
    tune_f1: np.ndarray
    batches: np.ndarray
    draws: int
    noise: np.ndarray
    epochs: tuple[np.ndarray, ...]
    losses: tuple[np.ndarray, ...]

    @property
    def depth(self) -> int:
        """Number of exits K."""
        return int(self.w.values.shape[1])


@dataclass(frozen=True)
class Finding:
    """One statistic beside its rule.

    claim : index into CLAIMS
    arm : how the networks were trained
    exit : its number, from 1; None where the statistic is of all exits
    decides : whether the claim's verdict hangs on it
    """

    claim: int
    arm: str
    statistic: str
    estimate: Interval
    held: bool
    exit: int | None = None
    decides: bool = True


def findings(one: Arm, other: Arm) -> list[Finding]:
    """All statistics of the five claims, in their order.

    Parameters
    ----------
    one, other : trained with and without auxiliary losses, by the same seeds, on the same rows
    """
    arms = (one, other)
    return [
        *(_along_depth(arm) for arm in arms),
        *(finding for arm in arms for finding in _along_epochs(arm)),
        *(finding for arm in arms for finding in _deeper(arm)),
        *(finding for arm in arms for finding in _stable(arm)),
        *_auxiliary(one, other),
    ]


def holds(found: list[Finding], claim: int, arm: str) -> bool | None:
    """Whether a claim held: in all that decides it. None where nothing was measured."""
    deciding = [
        each.held for each in found if (each.claim, each.arm) == (claim, arm) and each.decides
    ]
    return all(deciding) if deciding else None


def interval(measured: Sampled, confidence: float = CONFIDENCE) -> Interval:
    """Mean over the seeds of a statistic, with its interval over seeds and rows.

    Parameters
    ----------
    measured : (S,) and (S, R), or (S, 0) where the rows differ from seed to seed anyway
    """
    from scipy.stats import t

    seeds, draws = measured.rows.shape
    parts = [(float(measured.values.var(ddof=1)) / seeds, seeds - 1)]
    if draws:
        parts.append((float(measured.rows.mean(axis=0).var(ddof=1)), draws - 1))
    variance = sum(part for part, _ in parts)
    value = float(measured.values.mean())
    if variance == 0:
        return Interval(value, value, value)
    freedom = variance**2 / sum(part**2 / degrees for part, degrees in parts)
    half = float(t.ppf((1 + confidence) / 2, freedom)) * variance**0.5
    return Interval(value, value - half, value + half)


def deviation_interval(deviations: np.ndarray, freedom: int, confidence: float) -> Interval:
    """Root mean square of standard deviations, with an interval by the chi-squared distribution.

    Parameters
    ----------
    deviations : standard deviations, any shape
    freedom : degrees of freedom of one of them: layers and seeds that move together add none
    """
    from scipy.stats import chi2

    value = float(np.sqrt(np.mean(deviations**2)))
    tail = (1 - confidence) / 2
    low, high = (value * float(np.sqrt(freedom / chi2.ppf(q, freedom))) for q in (1 - tail, tail))
    return Interval(value, low, high)


def _along_depth(arm: Arm) -> Finding:
    depth = np.arange(arm.depth)
    estimate = _clipped(interval(arm.w.map(lambda w: _spearman(depth, w))))
    return Finding(0, arm.name, "correlation of depth and W", estimate, estimate.high < 0)


def _along_epochs(arm: Arm) -> Iterator[Finding]:
    for what, measured in (("W", arm.epochs), ("held-out loss", arm.losses)):
        for number, of_exit in enumerate(measured, start=1):
            values = np.array([_spearman(np.arange(len(seed)), seed) for seed in of_exit])
            estimate = _clipped(interval(Sampled(values, np.zeros((len(values), 0)))))
            statistic = f"correlation of epoch and {what}, {arm.name}"
            held = estimate.high < 0
            yield Finding(1, arm.name, statistic, estimate, held, number, decides=what == "W")


def _deeper(arm: Arm) -> Iterator[Finding]:
    last = arm.depth - 1
    nearest = arm.tune_w[:, :last].argmin(axis=1)
    best = arm.tune_f1[:, :last].argmax(axis=1)
    measured = {
        "W, last exit minus the nearest earlier one": arm.w.at(last) - arm.w.at(nearest),
        "micro-F1, the best earlier exit minus the last": arm.f1.at(best) - arm.f1.at(last),
    }
    for statistic, difference in measured.items():
        estimate = interval(difference)
        words = f"{statistic} (above 0 in {_seeds_above(difference)} seeds)"
        decides = statistic.startswith("W")
        yield Finding(2, arm.name, words, estimate, estimate.low > 0, decides=decides)


def _seeds_above(difference: Sampled) -> str:
    """In how many seeds a difference is above 0 by its interval over rows alone."""
    from scipy.stats import t

    draws = difference.rows.shape[1]
    half = t.ppf((1 + CONFIDENCE) / 2, draws - 1) * difference.rows.std(axis=1, ddof=1)
    return f"{int((difference.values - half > 0).sum())} of {len(difference.values)}"


def _stable(arm: Arm) -> Iterator[Finding]:
    # both intervals at this level give their quotient at least the one wanted, by Bonferroni
    level = (1 + CONFIDENCE) / 2
    seeds = len(arm.noise)
    between = interval(arm.w.map(_mean_difference), level)
    disturbed = Sampled(arm.noise.mean(axis=1), np.zeros((seeds, 0)))
    moved = {
        "over batches": deviation_interval(arm.batches, arm.draws - 1, level),
        "over seeds": deviation_interval(arm.w.values.std(axis=0, ddof=1), seeds - 1, level),
        "under input noise": interval(disturbed, level),
    }
    for cause, movement in moved.items():
        share = _quotient(movement, between)
        statistic = f"movement {cause}, as a share of the difference between exits"
        yield Finding(3, arm.name, statistic, share, share.high < 1)


def _auxiliary(one: Arm, other: Arm) -> Iterator[Finding]:
    for index in range(one.depth):
        w = interval(one.w.at(index) - other.w.at(index))
        f1 = interval(one.f1.at(index) - other.f1.at(index))
        yield Finding(4, BOTH, "W, with minus without", w, w.high < 0, index + 1)
        words = "micro-F1, with minus without"
        yield Finding(4, BOTH, words, f1, f1.low > 0, index + 1, decides=False)


def _spearman(one: np.ndarray, other: np.ndarray) -> float:
    """Rank correlation; 0 where one side does not vary."""
    from scipy.stats import spearmanr

    if np.ptp(one) == 0 or np.ptp(other) == 0:
        return 0.0
    return float(spearmanr(one, other).statistic)


def _mean_difference(w: np.ndarray) -> float:
    """Mean distance between the W of two different exits, (K,)."""
    return float(np.abs(w[:, None] - w).sum() / (len(w) * (len(w) - 1)))


def _clipped(estimate: Interval) -> Interval:
    """Of a correlation, which lies in [-1, 1]."""
    return Interval(estimate.value, max(estimate.low, -1.0), min(estimate.high, 1.0))


def _quotient(part: Interval, whole: Interval) -> Interval:
    """A share with the widest interval that the two intervals allow."""
    high = part.high / whole.low if whole.low > 0 else float("inf")
    return Interval(part.value / whole.value, max(part.low, 0.0) / whole.high, high)
