"""The certificate: Learn-then-Test along the path of policies, by fixed-sequence testing.

References
----------
[1] Angelopoulos, Bates, Candès, Jordan and Lei, "Learn then test: calibrating predictive algorithms
    to achieve risk control", Annals of Applied Statistics 19(2), 2025.
[2] Clopper and Pearson, "The use of confidence or fiducial limits", Biometrika 26, 1934 (the exact
    binomial test).
[3] Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting", JRSS B 86,
    2024.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
from scipy.stats import binom

from calibration.guarantee import Guarantee
from models.manifest import Certificate
from models.policy import Policy
from models.runtime import Answers, at_exits

BINOMIAL = "exact binomial p-values"
BETTING = "betting p-values for bounded losses"
METHOD = "Learn-then-Test: fixed-sequence testing along the path of W tolerances, {}"


def binomial_p_value(losses: int, rows: int, epsilon: float) -> float:
    """p-value of "the risk is above epsilon" after `losses` among `rows` independent rows.

    P(Binomial(rows, epsilon) <= losses): valid at every risk above epsilon, since the law only
    moves up [2].
    """
    return float(binom.cdf(losses, rows, epsilon))


def betting_p_value(losses: np.ndarray, epsilon: float, lowest: float, delta: float) -> float:
    r"""p-value of "the mean loss is above epsilon" for losses of independent rows in [lowest, 1].

    With x the losses scaled to [0, 1] and m the scaled epsilon, the capital of a gambler who bets
    on small losses,

    .. math:: K_t = \prod_{s \le t} \big(1 - \lambda_s (x_s - m)\big),

    is a supermartingale under the hypothesis; by Ville's inequality 1 / max K_t is a p-value [3].

    Parameters
    ----------
    losses : float (n,), in an order that was fixed without looking at them
    delta : the level that the bets are tuned for; the p-value is valid for every level
    """
    scaled = (losses - lowest) / (1 - lowest)
    mean = (epsilon - lowest) / (1 - lowest)
    count = np.arange(1, len(scaled) + 1)
    # predictable estimates: each bet knows only the rows before it
    means = (0.5 + np.cumsum(scaled)) / (count + 1)
    variances = (0.25 + np.cumsum((scaled - means) ** 2)) / (count + 1)
    before = np.concatenate([[0.25], variances[:-1]])
    bets = np.sqrt(2 * math.log(1 / delta) / (len(scaled) * before))
    bets = np.minimum(bets, 0.75 / (1 - mean))  # keeps the capital positive at the largest loss
    capital = np.cumsum(np.log1p(-bets * (scaled - mean)))
    return float(np.exp(-max(capital.max(initial=0.0), 0.0)))


def fixed_sequence(p_values: Iterable[float], delta: float) -> int:
    """How many hypotheses are rejected in order, before the first p-value above delta [1].

    The hypotheses rejected are the first ones; with n of them the policy to deploy is number n,
    never the one that failed. The chance that any true hypothesis is among them is at most delta.
    """
    passed = 0
    for p_value in p_values:
        if p_value > delta:
            break
        passed += 1
    return passed


def certify(
    path: Sequence[Policy],
    answers: Sequence[Answers],
    truth: np.ndarray,
    guarantee: Guarantee,
    rng: np.random.Generator,
) -> tuple[Policy, Certificate]:
    """Choose the last policy of the path that passes, on answers of the certify split.

    Parameters
    ----------
    path : from cautious to eager
    answers : K, one per exit, over the rows of the certify split; the last is the full model's
    truth : bool (n, L), the true label sets
    rng : orders the rows

    Returns
    -------
    The policy to deploy (full depth where none passes) and its certificate.
    """
    rows = len(answers[0])
    order = rng.permutation(rows)
    losses = [_losses(policy, answers, truth, guarantee)[order] for policy in path]
    p_values = [_p_value(policy_losses, guarantee) for policy_losses in losses]
    passed = fixed_sequence(p_values, guarantee.delta)
    certified = passed > 0
    policy = path[passed - 1] if certified else Policy.full(len(answers))
    deployed = losses[passed - 1] if certified else np.zeros(rows)
    first = losses[0] if losses else np.zeros(rows)
    certificate = Certificate(
        guarantee=guarantee.loss,
        against=guarantee.against,
        epsilon=guarantee.epsilon,
        delta=guarantee.delta,
        method=METHOD.format(BINOMIAL if guarantee.binary else BETTING),
        certified=certified,
        rows=rows,
        mean_loss=float(deployed.mean()) if rows else 0.0,
        p_value=p_values[passed - 1] if certified else 1.0,
        policies_on_path=len(path),
        policies_passed=passed,
        sentence=_promise(guarantee, deployed) if certified else _refusal(guarantee, first),
    )
    return policy, certificate


def rows_needed(rate: float, epsilon: float, delta: float) -> int | None:
    """The fewest rows that certify epsilon when a share `rate` of them is lost; None if none do."""
    if rate >= epsilon:
        return None
    low, high = 0, math.ceil(math.log(delta) / math.log1p(-epsilon))
    while binomial_p_value(round(rate * high), high, epsilon) > delta:
        low, high = high, 2 * high
    while high - low > 1:  # round() makes the p-value ripple: the answer is exact up to one ripple
        middle = (low + high) // 2
        if binomial_p_value(round(rate * middle), middle, epsilon) > delta:
            low = middle
        else:
            high = middle
    return high


def _losses(
    policy: Policy, answers: Sequence[Answers], truth: np.ndarray, guarantee: Guarantee
) -> np.ndarray:
    exits = policy.route([exit_answers.score for exit_answers in answers])
    return guarantee.row_losses(at_exits(answers, exits).labels, answers[-1].labels, truth)


def _p_value(losses: np.ndarray, guarantee: Guarantee) -> float:
    if guarantee.binary:
        return binomial_p_value(int(losses.sum()), len(losses), guarantee.epsilon)
    return betting_p_value(losses, guarantee.epsilon, guarantee.lowest, guarantee.delta)


def _promise(guarantee: Guarantee, losses: np.ndarray) -> str:
    rows = len(losses)
    words = {
        ("set-agreement", "model"): "at most {} of rows get a label set that differs from the full "
        f"model's ({int(losses.sum())} of {rows} rows of the certify split did)",
        ("sample-f1", "model"): "the mean F1 of a row's label set against the full model's is at "
        f"most {{}} below 1 (it was {losses.mean():.4f} below on {rows} rows of the certify split)",
        ("set-agreement", "labels"): "the share of rows with a wrong label set is at most {} above "
        f"the full model's (it was {_side(losses)} on {rows} rows of the certify split)",
        ("sample-f1", "labels"): "the mean F1 of a row's label set against the true one is at most "
        f"{{}} below the full model's (it was {_side(-losses)} on {rows} rows of the "
        "certify split)",
    }[guarantee.loss, guarantee.against]
    return (
        f"With probability at least {_percent(1 - guarantee.delta)}, "
        f"{words.format(_percent(guarantee.epsilon))}, for rows drawn like that split."
    )


def _side(difference: np.ndarray) -> str:
    mean = float(difference.mean())
    return f"{abs(mean):.4f} {'above' if mean > 0 else 'below'} it"


def _refusal(guarantee: Guarantee, losses: np.ndarray) -> str:
    rows, mean = len(losses), float(losses.mean()) if len(losses) else 0.0
    return (
        f"Nothing could be certified: the most cautious policy lost {mean:.4f} per row on {rows} "
        f"rows, too much to promise at most {_percent(guarantee.epsilon)} with probability "
        f"{_percent(1 - guarantee.delta)}. The full-depth policy is deployed; "
        f"{_way_on(guarantee, losses)}."
    )


def _way_on(guarantee: Guarantee, losses: np.ndarray) -> str:
    mean = float(losses.mean()) if len(losses) else 0.0
    if mean >= guarantee.epsilon:
        return (
            f"no number of rows certifies a loss above {_percent(guarantee.epsilon)}: raise "
            "--epsilon or train better early exits"
        )
    if guarantee.binary:
        needed = rows_needed(mean, guarantee.epsilon, guarantee.delta) or 0
    else:  # the normal approximation of what betting needs
        spread = float(losses.var()) + 1e-3
        gap = guarantee.epsilon - mean
        needed = math.ceil(2 * spread * math.log(1 / guarantee.delta) / gap**2)
    return f"about {needed} certify rows would be needed at the loss seen"


def _percent(share: float) -> str:
    return f"{100 * share:.10g}%"
