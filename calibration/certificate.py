"""The certificate: Learn-then-Test along the path of policies, by fixed-sequence testing.

References
----------
[1] Angelopoulos, Bates, Candès, Jordan and Lei, "Learn then test: calibrating predictive algorithms
    to achieve risk control", Annals of Applied Statistics 19(2), 2025.
[2] Clopper and Pearson, "The use of confidence or fiducial limits", Biometrika 26, 1934 (the exact
    binomial test).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
from scipy.stats import binom

from models.errors import CalibrationError
from models.manifest import Certificate
from models.policy import Policy
from models.runtime import Answers, at_exits

METHOD = (
    "Learn-then-Test: fixed-sequence testing along the path of W tolerances, "
    "exact binomial p-values"
)


def binomial_p_value(losses: int, rows: int, epsilon: float) -> float:
    """p-value of "the risk is above epsilon" after `losses` among `rows` independent rows.

    P(Binomial(rows, epsilon) <= losses): valid at every risk above epsilon, since the law only
    moves up [2].
    """
    return float(binom.cdf(losses, rows, epsilon))


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
    path: Sequence[Policy], answers: Sequence[Answers], epsilon: float, delta: float
) -> tuple[Policy, Certificate]:
    """Choose the last policy of the path that passes, on answers of the certify split.

    The loss of a row is 1 when the policy's label set differs from full depth's.

    Parameters
    ----------
    path : from cautious to eager
    answers : K, one per exit, over the rows of the certify split
    epsilon, delta : the policy loses more than epsilon with probability at most delta

    Returns
    -------
    The policy to deploy (full depth where none passes) and its certificate.
    """
    check_levels(epsilon, delta)
    rows = len(answers[0])
    losses = [_losses(policy, answers) for policy in path]
    p_values = [binomial_p_value(count, rows, epsilon) for count in losses]
    passed = fixed_sequence(p_values, delta)
    certified = passed > 0
    policy = path[passed - 1] if certified else Policy.full(len(answers))
    deployed_losses = losses[passed - 1] if certified else 0
    certificate = Certificate(
        guarantee="set-agreement",
        against="model",
        epsilon=epsilon,
        delta=delta,
        method=METHOD,
        certified=certified,
        rows=rows,
        losses=deployed_losses,
        p_value=p_values[passed - 1] if certified else 1.0,
        policies_on_path=len(path),
        policies_passed=passed,
        sentence=_promise(epsilon, delta, rows, deployed_losses)
        if certified
        else _refusal(epsilon, delta, rows, losses[0] if losses else 0),
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


def check_levels(epsilon: float, delta: float) -> None:
    """Refuse an epsilon or delta outside (0, 1)."""
    for name, level in (("epsilon", epsilon), ("delta", delta)):
        if not 0 < level < 1:
            raise CalibrationError(
                f"{name} is {level}: expected a number between 0 and 1, both excluded"
            )


def _losses(policy: Policy, answers: Sequence[Answers]) -> int:
    exits = policy.route([exit_answers.score for exit_answers in answers])
    differ = (at_exits(answers, exits).labels != answers[-1].labels).any(axis=1)
    return int(np.count_nonzero(differ))


def _promise(epsilon: float, delta: float, rows: int, losses: int) -> str:
    return (
        f"With probability at least {_percent(1 - delta)}, at most {_percent(epsilon)} of rows get "
        f"a label set that differs from the full model's ({losses} of {rows} rows of the certify "
        "split did), for rows drawn like that split."
    )


def _refusal(epsilon: float, delta: float, rows: int, losses: int) -> str:
    needed = rows_needed(losses / rows if rows else 0.0, epsilon, delta)
    way_on = (
        f"about {needed} certify rows would be needed at the rate seen"
        if needed
        else f"no number of rows certifies a rate above {_percent(epsilon)}: raise epsilon or "
        "train better early exits"
    )
    return (
        f"Nothing could be certified: the most cautious policy changed {losses} of {rows} label "
        f"sets, too many to promise at most {_percent(epsilon)} with probability "
        f"{_percent(1 - delta)}. The full-depth policy is deployed; {way_on}."
    )


def _percent(share: float) -> str:
    return f"{100 * share:.10g}%"
