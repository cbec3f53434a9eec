from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from calibration.certificate import (
    betting_p_value,
    binomial_p_value,
    certify,
    fixed_sequence,
    rows_needed,
)
from calibration.guarantee import (
    Guarantee,
    GuaranteeOptions,
    Loss,
    pairwise_loss,
    sample_f1,
    set_loss,
)
from models.errors import CalibrationError
from models.manifest import Certificate
from models.policy import Policy
from models.runtime import Answers

EPSILON, DELTA = 0.1, 0.05
SIMULATIONS, ROWS = 500, 400
PATH = [Policy((float(threshold),)) for threshold in np.linspace(0.98, 0, 50)]
AGREEMENT = Guarantee("set-agreement", "model", EPSILON, DELTA)
REGRET = Guarantee("set-agreement", "labels", EPSILON, DELTA)


def certified(
    answers: list[Answers],
    path: list[Policy] = PATH,
    guarantee: Guarantee = AGREEMENT,
    seed: int = 0,
) -> tuple[Policy, Certificate]:
    truth = answers[-1].labels
    return certify(path, answers, truth, guarantee, np.random.default_rng(seed))


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


@pytest.mark.parametrize("guarantee", [AGREEMENT, REGRET], ids=["binomial", "betting"])
def test_certified_policies_break_their_promise_at_most_as_often_as_said(
    guarantee: Guarantee,
) -> None:
    rng = np.random.default_rng(0)
    broken, naively_broken = 0, 0
    for _ in range(SIMULATIONS):
        answers = simulate(rng, ROWS)
        policy, _ = certified(answers, guarantee=guarantee)
        broken += true_risk(policy) > EPSILON
        naively_broken += true_risk(naive_choice(answers)) > EPSILON
    allowed = DELTA + 3 * np.sqrt(DELTA * (1 - DELTA) / SIMULATIONS)
    assert broken / SIMULATIONS <= allowed
    assert naively_broken / SIMULATIONS > 2 * allowed  # the simulation can tell


def test_the_last_passing_policy_is_deployed() -> None:
    answers = simulate(np.random.default_rng(1), ROWS)
    policy, certificate = certified(answers)
    passed = certificate.policies_passed
    assert policy == PATH[passed - 1]
    losses = round(certificate.mean_loss * ROWS)
    assert binomial_p_value(losses, ROWS, EPSILON) == certificate.p_value <= DELTA
    _, beyond = certified(answers, PATH[passed:])
    assert not beyond.certified


def test_nothing_certified_deploys_full_depth_and_says_how_many_rows_it_takes() -> None:
    answers = simulate(np.random.default_rng(2), rows=20)
    strict = Guarantee("set-agreement", "model", 0.01, DELTA)
    policy, certificate = certified(answers, guarantee=strict)
    assert policy == Policy.full(2)
    assert not certificate.certified
    assert certificate.mean_loss == 0
    assert "299 certify rows" in certificate.sentence


def test_a_hopeless_rate_is_called_hopeless() -> None:
    answers = simulate(np.random.default_rng(2), ROWS)
    _, certificate = certified(answers, [Policy((0.0,))])
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
        GuaranteeOptions(epsilon=level)
    with pytest.raises(CalibrationError, match="delta is"):
        Guarantee(delta=level)


def test_betting_rejects_a_loss_as_large_as_epsilon_no_more_often_than_delta() -> None:
    """The hypothesis at its edge, with losses in [-1, 1] that are mostly nothing."""
    rng = np.random.default_rng(3)
    values, chances = np.array([-1.0, 0.0, 1.0]), [0.1, 0.7, 0.2]  # mean 0.1
    p_values = [
        betting_p_value(rng.choice(values, 300, p=chances), EPSILON, lowest=-1.0, delta=DELTA)
        for _ in range(2000)
    ]
    allowed = DELTA + 3 * np.sqrt(DELTA * (1 - DELTA) / len(p_values))
    assert np.mean(np.array(p_values) <= DELTA) <= allowed
    clearly_less = betting_p_value(np.zeros(300), EPSILON, lowest=-1.0, delta=DELTA)
    assert clearly_less < DELTA


def test_betting_never_calls_more_losses_better() -> None:
    rng = np.random.default_rng(4)
    losses = (rng.random(200) < 0.05).astype(float)
    worse = np.maximum(losses, rng.random(200) < 0.05)
    assert betting_p_value(losses, 0.2, 0.0, DELTA) <= betting_p_value(worse, 0.2, 0.0, DELTA)


def test_a_policy_better_than_the_full_model_has_a_negative_regret() -> None:
    truth = np.array([[True, False], [True, True]])
    full = np.array([[False, False], [True, False]])
    guarantee = Guarantee("sample-f1", "labels")
    losses = guarantee.row_losses(truth, full, truth)
    np.testing.assert_allclose(losses, [-1, -1 / 3])
    assert guarantee.lowest == -1


def test_f1_of_nothing_against_nothing_is_one() -> None:
    nothing = np.zeros((1, 3), bool)
    assert sample_f1(nothing, nothing).tolist() == [1]
    assert sample_f1(nothing, ~nothing).tolist() == [0]


@pytest.mark.parametrize("loss", ["set-agreement", "sample-f1"])
def test_pairwise_losses_hold_the_rowwise_ones_on_their_diagonal(loss: Loss) -> None:
    rng = np.random.default_rng(5)
    one, other = rng.random((2, 30, 4)) < 0.3
    pairs = pairwise_loss(loss, one, other)
    np.testing.assert_allclose(np.diag(pairs), set_loss(loss, one, other), atol=1e-6)
    np.testing.assert_allclose(pairs, pairwise_loss(loss, other, one).T, atol=1e-6)


@pytest.mark.parametrize(
    ("has_head", "expected"),
    [(True, ("set-agreement", "model")), (False, ("sample-f1", "labels"))],
)
def test_the_default_promise_follows_from_the_model(
    has_head: bool, expected: tuple[str, str]
) -> None:
    guarantee = GuaranteeOptions().resolved(has_head)
    assert (guarantee.loss, guarantee.against) == expected
