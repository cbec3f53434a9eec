from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from calibration.certificate import (
    binomial_p_value,
    certify,
    fixed_sequence,
    rows_needed,
)
from models.errors import CalibrationError
from models.policy import Policy
from models.runtime import Answers

EPSILON, DELTA = 0.1, 0.05
SIMULATIONS, ROWS = 500, 400
PATH = [Policy((float(threshold),)) for threshold in np.linspace(0.98, 0, 50)]


@pytest.mark.parametrize(("losses", "rows"), [(0, 50), (3, 200), (20, 200), (200, 200)])
def test_p_value_equals_scipys_exact_test(losses: int, rows: int) -> None:
    expected = binomtest(losses, rows, EPSILON, alternative="less").pvalue
    assert binomial_p_value(losses, rows, EPSILON) == pytest.approx(expected)


@pytest.mark.parametrize(("rows", "tolerated"), [(300, 0), (500, 1), (1000, 4), (5000, 38)])
def test_known_numbers_of_tolerated_losses(rows: int, tolerated: int) -> None:
    assert (
        binomial_p_value(tolerated, rows, 0.01)
        <= 0.05
        < binomial_p_value(tolerated + 1, rows, 0.01)
    )


def test_fixed_sequence_stops_before_the_first_failure() -> None:
    assert fixed_sequence([0.01, 0.04, 0.06, 0.001], delta=0.05) == 2
    assert fixed_sequence([0.5, 0.01], delta=0.05) == 0
    assert fixed_sequence([0.01], delta=0.05) == 1


def simulate(rng: np.random.Generator, rows: int) -> list[Answers]:
    """Two exits over one label; at score s the early exit errs with probability (1 - s) / 2."""
    score = rng.random(rows).astype(np.float32)
    right = np.ones((rows, 1), bool)
    early = right ^ (rng.random((rows, 1)) < (1 - score[:, None]) / 2)
    probabilities = np.ones((rows, 1), np.float32)
    return [Answers(probabilities, early, score), Answers(probabilities, right, score)]


def true_risk(policy: Policy) -> float:
    """Integral of (1 - s) / 2 over the scores from the threshold to 1."""
    threshold = policy.thresholds[0]
    return 0.0 if threshold is None else (1 - threshold) ** 2 / 4


def naive_choice(answers: list[Answers]) -> Policy:
    """What a certificate is not: the most eager policy with a loss of at most epsilon here."""
    early, last = answers
    differs = (early.labels != last.labels).any(axis=1)
    losses = [float(np.mean(differs & policy.leaves(1, early.score))) for policy in PATH]
    return PATH[int(np.flatnonzero(np.array(losses) <= EPSILON)[-1])]


def test_certified_policies_break_their_promise_at_most_as_often_as_said() -> None:
    rng = np.random.default_rng(0)
    broken, naively_broken = 0, 0
    for _ in range(SIMULATIONS):
        answers = simulate(rng, ROWS)
        policy, certificate = certify(PATH, answers, EPSILON, DELTA)
        assert certificate.certified
        broken += true_risk(policy) > EPSILON
        naively_broken += true_risk(naive_choice(answers)) > EPSILON
    allowed = DELTA + 3 * np.sqrt(DELTA * (1 - DELTA) / SIMULATIONS)
    assert broken / SIMULATIONS <= allowed
    assert naively_broken / SIMULATIONS > 2 * allowed  # the simulation can tell


def test_the_last_passing_policy_is_deployed() -> None:
    answers = simulate(np.random.default_rng(1), ROWS)
    policy, certificate = certify(PATH, answers, EPSILON, DELTA)
    passed = certificate.policies_passed
    assert policy == PATH[passed - 1]
    assert binomial_p_value(certificate.losses, ROWS, EPSILON) == certificate.p_value <= DELTA
    _, beyond = certify(PATH[passed:], answers, EPSILON, DELTA)
    assert not beyond.certified


def test_nothing_certified_deploys_full_depth_and_says_how_many_rows_it_takes() -> None:
    answers = simulate(np.random.default_rng(2), rows=20)
    policy, certificate = certify(PATH, answers, epsilon=0.01, delta=DELTA)
    assert policy == Policy.full(2)
    assert not certificate.certified
    assert certificate.losses == 0
    assert "299 certify rows" in certificate.sentence


def test_a_hopeless_rate_is_called_hopeless() -> None:
    answers = simulate(np.random.default_rng(2), ROWS)
    _, certificate = certify([Policy((0.0,))], answers, EPSILON, DELTA)
    assert "no number of rows" in certificate.sentence


@pytest.mark.parametrize(("rate", "epsilon"), [(0.0, 0.01), (0.0, 0.02), (0.01, 0.02)])
def test_rows_needed_is_enough_and_no_less(rate: float, epsilon: float) -> None:
    needed = rows_needed(rate, epsilon, DELTA)
    assert needed is not None
    assert binomial_p_value(round(rate * needed), needed, epsilon) <= DELTA
    assert binomial_p_value(round(rate * (needed - 1)), needed - 1, epsilon) > DELTA


@pytest.mark.parametrize("level", [0, 1, -0.1, 2, float("nan")])
def test_levels_outside_zero_and_one_are_refused(level: float) -> None:
    with pytest.raises(CalibrationError, match="epsilon is"):
        certify(PATH, [], level, DELTA)
    with pytest.raises(CalibrationError, match="delta is"):
        certify(PATH, [], EPSILON, level)
