"""What the service will hold live answers against, from the answers of the finished exits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from calibration.guarantee import Guarantee, Guarantees
from calibration.p_values import promise_p_value
from models.live_reference import LEVELS, Limit, LiveReference
from models.manifest import Certificate
from models.policy import Policy
from models.runtime import Answers, at_exits

BISECTIONS = 20
DIGITS = 6
SMALLEST = 1e-6


def live_reference(
    policy: Policy,
    certificate: Certificate,
    guarantees: Guarantees,
    certify: Sequence[Answers],
    test: Sequence[Answers],
) -> LiveReference:
    """The limits and distributions of the deployed policy.

    Parameters
    ----------
    certify, test : K answers, one per exit, to the rows of these splits
    """
    answered = _answers(policy, certify)
    promises = guarantees.promises if certificate.certified else ()
    delta = guarantees.delta
    return LiveReference(
        limits=tuple(_limit(promise, delta, policy, test) for promise in promises),
        rows=len(answered.score),
        probabilities=tuple(map(quantiles, answered.probabilities.T)),
        scores=quantiles(answered.score),
    )


def quantiles(values: np.ndarray) -> tuple[float, ...]:
    """Quantiles of values (n,) in [0, 1], at the middles of `LEVELS` equal shares."""
    levels = (np.arange(LEVELS) + 0.5) / LEVELS
    found = np.quantile(values.astype(float), levels, method="inverted_cdf")
    return tuple(np.round(found, DIGITS).tolist())


def largest_loss(
    guarantee: Guarantee, delta: float, answers: np.ndarray, target: np.ndarray
) -> float:
    """What the mean loss towards the target is at most, with probability 1 - delta.

    Parameters
    ----------
    guarantee : says which loss; its epsilon does not matter
    answers, target : label sets bool (n, L), of rows that nothing was chosen on
    """
    low, high = 0.0, 1.0
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        kept = replace(guarantee, against="model", epsilon=middle)
        if promise_p_value(kept, delta, answers, target, target) <= delta:
            high = middle
        else:
            low = middle
    return min(max(high, SMALLEST), 1 - SMALLEST)


def _limit(promise: Guarantee, delta: float, policy: Policy, test: Sequence[Answers]) -> Limit:
    if promise.against == "model":
        return Limit(guarantee=promise.loss, mean_loss=promise.epsilon, source="promised")
    bound = largest_loss(promise, delta, _answers(policy, test).labels, test[-1].labels)
    return Limit(guarantee=promise.loss, mean_loss=bound, source="measured")


def _answers(policy: Policy, exits: Sequence[Answers]) -> Answers:
    return at_exits(exits, policy.route([answers.score for answers in exits]))
