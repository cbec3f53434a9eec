r"""p-values of "the policy loses more than epsilon", valid for every number of rows.

References
----------
[1] Clopper and Pearson, "The use of confidence or fiducial limits", Biometrika 26, 1934 (the exact
    binomial test).
[2] Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting", JRSS B 86,
    2024.
[3] Orabona and Jun, "Tight concentrations and confidence sequences from the regret of universal
    portfolio", IEEE Transactions on Information Theory 70, 2024.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.stats import binom

from calibration.guarantee import Guarantee

F1_SHARE = 0.1  # of delta, for the full model's own micro-F1
BISECTIONS = 16  # the interval is up to 2 ** -16 too wide


def binomial_p_value(losses: int, rows: int, epsilon: float) -> float:
    """p-value of "the risk is above epsilon" after `losses` among `rows` independent rows.

    P(Binomial(rows, epsilon) <= losses): valid at every risk above epsilon, since the law only
    moves up [1].
    """
    return float(binom.cdf(losses, rows, epsilon))


def betting_p_value(excess: np.ndarray, largest: float, delta: float) -> float:
    r"""p-value of "the mean of `excess` is zero or above", for independent rows.

    Whoever bets on rows below zero has, after t rows, the capital

    .. math:: K_t = \prod_{s \le t} (1 - \lambda_s x_s), \qquad 0 \le \lambda_s < 1 / x_{max},

    which under the hypothesis is a supermartingale, since a bet knows only the rows before it; by
    Ville's inequality 1 / max K_t is a p-value. The bets are those of [2], tuned for n rows and
    the level delta by the variance seen so far (averages of fixed bets, as in [3], had half the
    power at the loss rates that matter here).

    Parameters
    ----------
    excess : float (n,), in an order that was fixed without looking at them
    largest : no value can be larger; above 0
    delta : the level that the bets are tuned for; the p-value is valid for every level
    """
    return _p_value_of_bets(excess[:, None], _bets(excess, largest, delta))


def _p_value_of_bets(columns: np.ndarray, bets: np.ndarray) -> float:
    """p-value of "some column's mean is zero or above": (n, columns), bets (n,).

    After each row the smallest capital of all columns counts.
    """
    capital = np.cumsum(np.log1p(-bets[:, None] * columns), axis=0).min(axis=1)
    return float(np.exp(-capital.max(initial=0.0)))


def _bets(rows: np.ndarray, largest: float, delta: float) -> np.ndarray:
    """A bet on each row, from the variance of the rows before it: float (n,) -> (n,)."""
    count = np.arange(1, len(rows) + 1)
    means = np.cumsum(rows) / (count + 1)
    prior = largest**2 / 4
    variances = (prior + np.cumsum((rows - means) ** 2)) / (count + 1)
    before = np.concatenate([[prior], variances[:-1]])
    bets = np.sqrt(2 * math.log(1 / delta) / (len(rows) * before))
    return np.minimum(bets, 0.75 / largest)  # keeps the capital positive at the largest loss


def promise_p_value(
    guarantee: Guarantee, delta: float, answers: np.ndarray, full: np.ndarray, truth: np.ndarray
) -> float:
    """p-value of "the policy breaks this promise".

    Parameters
    ----------
    delta : the level of the test; the p-values of bounded losses are tuned for it
    answers, full, truth : label sets bool (n, L) of the policy, of the full model, and true ones,
        in an order that was fixed without looking at them
    """
    if guarantee.loss == "micro-f1":
        return _micro_f1_p_value(guarantee, delta, answers, full, truth)
    losses = guarantee.row_losses(answers, full, truth)
    if guarantee.binary:
        return binomial_p_value(int(losses.sum()), len(losses), guarantee.epsilon)
    return betting_p_value(losses - guarantee.epsilon, 1 - guarantee.epsilon, delta)


def _micro_f1_p_value(
    guarantee: Guarantee, delta: float, answers: np.ndarray, full: np.ndarray, truth: np.ndarray
) -> float:
    r"""A bound on a quotient of means as a bound on one mean.

    Against the model, F1 = 2 TP / (2 TP + D) with D the differing labels, so that
    F1 >= t = 1 - epsilon is E[t D - 2 (1 - t) TP] <= 0.

    Against labels, with u the full model's F1 towards the truth Y, F1 >= u - epsilon is

    .. math:: E[u(|A| - |F|) - \epsilon(|A| + |Y|) - 2(TP_A - TP_F)] \le 0,

    linear in u; the capital of a bet is log-concave in u, so that over an interval of u it is
    smallest at one of the ends. The interval holds u but for a share of delta, which is added.
    Its ends are known after the last row only: the bets follow the excess at u = 1/2.
    """
    labels, epsilon = answers.shape[1], guarantee.epsilon
    size = answers.sum(axis=1)
    if guarantee.against == "model":
        hits = (answers & full).sum(axis=1)
        differing = size + full.sum(axis=1) - 2 * hits
        excess = (1 - epsilon) * differing - 2 * epsilon * hits
        return betting_p_value(excess, (1 - epsilon) * labels, delta)
    spent = F1_SHARE * delta
    low, high = micro_f1_interval(full, truth, spent)
    gained = (answers & truth).sum(axis=1) - (full & truth).sum(axis=1)
    grown = size - full.sum(axis=1)
    fixed = -epsilon * (size + truth.sum(axis=1)) - 2 * gained
    excess = np.stack([u * grown + fixed for u in (low, high)], axis=1)
    bets = _bets(grown / 2 + fixed, 2.0 * labels, delta)
    return min(1.0, spent + _p_value_of_bets(excess, bets))


def micro_f1_interval(answers: np.ndarray, truth: np.ndarray, delta: float) -> tuple[float, float]:
    """Interval that holds the micro-F1 of the population with probability 1 - delta.

    F1 below u is E[2 TP - u (|A| + |Y|)] < 0, tested from both sides by betting, u by bisection:
    all u behind one that is refuted are refuted too, since the bets are the same for every u.
    """
    twice = 2 * (answers & truth).sum(axis=1)
    total = answers.sum(axis=1) + truth.sum(axis=1)
    largest = 2.0 * answers.shape[1]
    ends = []
    for side, wrong in ((-1, 0.0), (1, 1.0)):  # F1 below u refuted; F1 above u refuted
        bets = _bets(side * (twice - total / 2), largest, delta / 2)
        right = float(twice.sum() / max(total.sum(), 1))
        for _ in range(BISECTIONS):
            middle = (right + wrong) / 2
            excess = side * (twice - middle * total)
            if _p_value_of_bets(excess[:, None], bets) <= delta / 2:
                wrong = middle
            else:
                right = middle
        ends.append(wrong)
    return ends[0], ends[1]


def fewest_rows(guarantee: Guarantee, delta: float, labels: int, size: float = 1.0) -> int:
    """The fewest rows with which a policy that loses nothing at all can be certified.

    Exact for set-agreement against the model, else at most a twentieth too many.

    Parameters
    ----------
    labels : L
    size : labels of an average row; only micro-f1, where larger sets tell more, depends on it
    """
    epsilon, level = guarantee.epsilon, delta
    if guarantee.binary:
        return math.ceil(math.log(delta) / math.log1p(-epsilon))
    if guarantee.loss != "micro-f1":
        gain, largest = epsilon, 1 - epsilon
    elif guarantee.against == "model":
        gain, largest = 2 * epsilon * size, (1 - epsilon) * labels
    else:
        gain, largest, level = 2 * epsilon * size, 2.0 * labels, (1 - F1_SHARE) * delta
    rows = 1
    while betting_p_value(np.full(rows, -gain), largest, delta) > level:
        rows = math.ceil(1.05 * rows) + 1
    return rows
