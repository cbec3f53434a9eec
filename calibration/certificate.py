"""The certificate: Learn-then-Test along the path of policies, by fixed-sequence testing.

References
----------
[1] Angelopoulos, Bates, Candès, Jordan and Lei, "Learn then test: calibrating predictive algorithms
    to achieve risk control", Annals of Applied Statistics 19(2), 2025.
[2] Berger, "Multiparameter hypothesis testing and acceptance sampling", Technometrics 24, 1982 (of
    several hypotheses that all have to go, the largest p-value counts: no correction is needed).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from calibration.certificate_words import (
    no_exit_sentence,
    promise_sentence,
    refusal_sentence,
)
from calibration.guarantee import Guarantees
from calibration.label_floor import LabelTests
from calibration.p_values import fewest_rows, promise_p_value
from models.errors import CalibrationError
from models.manifest import Certificate, Promise
from models.policy import Policy
from models.runtime import Answers, at_exits

BINOMIAL = "exact binomial p-values"
BETTING = "betting p-values for bounded losses"
METHOD = "Learn-then-Test: fixed-sequence testing along the path of W prices, {}"


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
    guarantees: Guarantees,
    names: tuple[str, ...],
    rng: np.random.Generator,
    shares: np.ndarray | None = None,
) -> tuple[Policy, Certificate]:
    """Choose the last policy of the path that passes, on answers of the certify split.

    Parameters
    ----------
    path : from cautious to eager
    answers : K, one per exit, over the rows of the certify split; the last is the full model's
    truth : bool (n, L), the true label sets
    names : L, of the labels
    rng : orders the rows
    shares : float (L,), share of positives of every label on other rows, which decides what labels
        are promised one by one; see `LabelTests.of`

    Returns
    -------
    The policy to deploy (full depth where none passes) and its certificate.
    """
    test = _Test(answers, truth, guarantees, rng, shares)
    passed = fixed_sequence(
        (test.p_value(test.answered(policy)) for policy in path), guarantees.delta
    )
    certified = passed > 0
    policy = path[passed - 1] if certified else Policy.full(len(answers))
    shown = test.answered(policy if certified or not path else path[0])
    promises = test.promises(shown)
    floor = test.labels.floor(shown if certified else None, names) if test.labels else ()
    words = promise_sentence if certified else refusal_sentence if path else no_exit_sentence
    losses = [p.row_losses(shown, test.full, test.truth) for p in guarantees.promises]
    certificate = Certificate(
        promises=promises if certified else _nothing_lost(promises),
        delta=guarantees.delta,
        method=METHOD.format(_tests(guarantees)),
        certified=certified,
        rows=len(truth),
        label_epsilon=guarantees.label_epsilon,
        label_floor=floor,
        policies_on_path=len(path),
        policies_passed=passed,
        sentence=words(guarantees, losses, floor),
    )
    return policy, certificate


def check_rows(guarantees: Guarantees, rows: int, labels: int, size: float = 1.0) -> None:
    """Refuse a certify split that cannot certify anything.

    Parameters
    ----------
    rows : of the certify split
    labels : L
    size : labels of an average row

    Raises
    ------
    CalibrationError
        When even a policy that loses nothing would not pass; it says how many rows are needed.
    """
    for promise in guarantees.promises:
        needed = fewest_rows(promise, guarantees.delta, labels, size)
        if rows < needed:
            raise CalibrationError(
                f"the certify split has {rows} rows: for {promise.loss} at epsilon "
                f"{promise.epsilon} and delta {guarantees.delta} at least {needed} are needed, "
                "even if nothing at all is lost; give it more rows, or raise --epsilon or --delta"
            )


class _Test:
    """The rows of the certify split, in an order drawn without looking at them."""

    def __init__(
        self,
        answers: Sequence[Answers],
        truth: np.ndarray,
        guarantees: Guarantees,
        rng: np.random.Generator,
        shares: np.ndarray | None,
    ) -> None:
        order = rng.permutation(len(truth))
        self._answers = [exit_answers.take(order) for exit_answers in answers]
        self._guarantees = guarantees
        self.truth = truth[order]
        self.full = self._answers[-1].labels
        self.labels = (
            LabelTests.of(
                guarantees.against,
                guarantees.label_epsilon,
                guarantees.delta,
                self.full,
                self.truth,
                shares,
            )
            if guarantees.label_epsilon is not None
            else None
        )

    def answered(self, policy: Policy) -> np.ndarray:
        """Label sets under a policy: bool (n, L)."""
        exits = policy.route([exit_answers.score for exit_answers in self._answers])
        return at_exits(self._answers, exits).labels

    def promises(self, answered: np.ndarray) -> tuple[Promise, ...]:
        delta = self._guarantees.delta
        return tuple(
            Promise(
                guarantee=promise.loss,
                against=promise.against,
                epsilon=promise.epsilon,
                mean_loss=float(promise.row_losses(answered, self.full, self.truth).mean()),
                p_value=promise_p_value(promise, delta, answered, self.full, self.truth),
            )
            for promise in self._guarantees.promises
        )

    def p_value(self, answered: np.ndarray) -> float:
        """p-value of "the policy breaks any of the promises" [2]."""
        largest = max(promise.p_value for promise in self.promises(answered))
        if self.labels is None or largest > self._guarantees.delta:
            return largest
        return max(largest, self.labels.p_value(answered))


def _nothing_lost(promises: Sequence[Promise]) -> tuple[Promise, ...]:
    """The promises of the full-depth policy, which keeps them without any test."""
    unproven = {"mean_loss": 0.0, "p_value": 1.0}
    return tuple(promise.model_copy(update=unproven) for promise in promises)


def _tests(guarantees: Guarantees) -> str:
    kinds = dict.fromkeys(BINOMIAL if p.binary else BETTING for p in guarantees.promises)
    tests = " and ".join(kinds)
    several = len(guarantees.promises) > 1 or guarantees.label_epsilon is not None
    return tests + (", the largest of them at each step" if several else "")
