from __future__ import annotations

import numpy as np
import pytest

from calibration.guarantee import Guarantee, Guarantees
from calibration.p_values import binomial_p_value
from calibration.payoff import _foreseen, unpaying
from calibration.plan import Payoff
from models.policy import Policy
from models.runtime import Answers

EPSILON = 0.05
GUARANTEES = Guarantees((Guarantee("set-agreement", "model", EPSILON),), 0.05)
PATH = [Policy((float(threshold),)) for threshold in np.linspace(0.95, 0, 20)]


def answers_to(rows: int) -> list[Answers]:
    """An early exit that errs with probability (1 - score) / 2, and one that is right."""
    rng = np.random.default_rng(0)
    score = rng.random(rows).astype(np.float32)
    right = np.ones((rows, 1), bool)
    early = right ^ (rng.random((rows, 1)) < (1 - score[:, None]) / 2)
    return [Answers(sets.astype(np.float32), sets, score) for sets in (early, right)]


def lost(policy: Policy, answers: list[Answers]) -> int:
    early, full = answers
    return int(((early.labels != full.labels)[:, 0] & policy.leaves(1, early.score)).sum())


def foreseen(rows: int) -> tuple[Policy, list[int]]:
    answers = answers_to(rows)
    policy = _foreseen(PATH, answers, answers[-1], answers[-1].labels, GUARANTEES)
    return policy, [lost(policy, answers) for policy in PATH]


def test_exits_are_judged_where_the_certificate_would_end() -> None:
    policy, losses = foreseen(2000)
    failing = next(k for k, n in enumerate(losses) if binomial_p_value(n, 2000, EPSILON) > 0.05)
    assert 1 < failing < len(PATH)
    assert policy == PATH[failing - 1]


def test_too_few_rows_for_any_test_are_taken_as_they_are() -> None:
    rows = 40  # fifty-nine would be needed
    policy, losses = foreseen(rows)
    failing = next(k for k, n in enumerate(losses) if n / rows > EPSILON)
    assert 1 < failing < len(PATH)
    assert policy == PATH[failing - 1]


@pytest.mark.parametrize(
    ("payoff", "said"),
    [(Payoff(1, 0.5, 0.25), "cost 0.5 ms per row and save 0.25 ms"), (Payoff(2, 0, 0), "no row")],
)
def test_an_exit_that_does_not_pay_says_why(payoff: Payoff, said: str) -> None:
    assert not payoff.pays
    assert said in unpaying(payoff)
