from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mapie.risk_control import BinaryClassificationController, FWERFixedSequenceTesting

from calibration.certificate import certify, check_rows, fixed_sequence
from calibration.guarantee import Against, Guarantee, Guarantees
from calibration.p_values import binomial_p_value
from models.errors import CalibrationError
from models.manifest import Certificate, GuaranteeKind
from models.policy import Policy
from models.runtime import Answers

EPSILON, DELTA, ROWS = 0.1, 0.05, 512
PATH = [Policy((float(threshold),)) for threshold in np.linspace(0.98, 0, 50)]
AGREEMENT = Guarantee("set-agreement", "model", EPSILON)
REGRET = Guarantee("set-agreement", "labels", EPSILON)
HAMMING = Guarantee("hamming", "model", EPSILON)
NAMES = ("common", "rare")


def simulated(seed: int, rows: int = ROWS) -> list[Answers]:
    """Two exits; at score s the early one misses the common label with chance (1 - s) / 2."""
    rng = np.random.default_rng(seed)
    score = rng.random(rows).astype(np.float32)
    full = np.ones((rows, 2), bool)
    full[:, 1] = np.arange(rows) < 20
    early = full.copy()
    early[:, 0] = rng.random(rows) >= (1 - score) / 2
    return [Answers(sets.astype(np.float32), sets, score) for sets in (early, full)]


def certified(
    answers: list[Answers],
    *promises: Guarantee,
    path: Sequence[Policy] = PATH,
    label_epsilon: float | None = None,
) -> tuple[Policy, Certificate]:
    """The certificate where the full model is right on all rows."""
    guarantees = Guarantees(promises or (AGREEMENT,), DELTA, label_epsilon)
    rng = np.random.default_rng(0)
    return certify(path, answers, answers[-1].labels, guarantees, NAMES, rng)


def lost_under(policy: Policy, answers: list[Answers]) -> int:
    """Rows whose set under the policy is not the full model's."""
    early, full = answers
    return int(((early.labels != full.labels).any(axis=1) & policy.leaves(1, early.score)).sum())


def test_fixed_sequence_stops_before_the_first_failure() -> None:
    assert fixed_sequence([0.01, 0.04, 0.06, 0.001], delta=0.05) == 2
    assert fixed_sequence([0.5, 0.01], delta=0.05) == 0
    assert fixed_sequence([0.01], delta=0.05) == 1
    assert fixed_sequence([0.05], delta=0.05) == 1
    assert fixed_sequence([], delta=0.05) == 0


def test_fixed_sequence_asks_for_no_p_value_behind_a_failure() -> None:
    asked = iter([0.01, 0.2, 0.01])
    assert fixed_sequence(asked, delta=0.05) == 1
    assert list(asked) == [0.01]


@given(st.lists(st.floats(0, 0.2), min_size=1, max_size=30), st.floats(0.01, 0.19))
def test_fixed_sequence_rejects_what_mapies_does(p_values: list[float], delta: float) -> None:
    theirs = FWERFixedSequenceTesting(n_starts=1).run(np.array(p_values), delta)
    assert theirs.tolist() == list(range(fixed_sequence(p_values, delta)))


@pytest.mark.parametrize("seed", range(10))
def test_the_policies_that_pass_are_those_of_mapies_controller(seed: int) -> None:
    """Its risk is the share of rows that leave with a set other than the full model's."""
    answers = simulated(seed)
    early, full = answers
    differs = (early.labels != full.labels).any(axis=1)
    score = np.where(differs, early.score, np.float32(-1))  # -1 reaches no threshold
    thresholds = np.array([policy.thresholds[0] for policy in PATH], np.float32)
    controller = BinaryClassificationController(
        lambda rows: np.stack([1 - score, score], axis=1)[rows],
        "predicted_positive_fraction",
        EPSILON,
        confidence_level=1 - DELTA,
        best_predict_param_choice="predicted_positive_fraction",
        list_predict_params=thresholds,
        fwer_method="fixed_sequence",
    )
    controller.calibrate(np.arange(ROWS), np.zeros(ROWS, int))
    policy, certificate = certified(answers)
    passed = len(controller.valid_predict_params)
    np.testing.assert_array_equal(controller.valid_predict_params, thresholds[:passed])
    assert certificate.policies_passed == passed
    assert policy == PATH[passed - 1]
    theirs = controller.p_values[passed - 1].item()
    assert certificate.promises[0].p_value == pytest.approx(theirs)


@pytest.mark.parametrize("seed", range(5))
def test_the_last_passing_policy_is_deployed(seed: int) -> None:
    answers = simulated(seed)
    policy, certificate = certified(answers)
    passed = certificate.policies_passed
    assert 0 < passed < len(PATH)
    assert certificate.policies_on_path == len(PATH)
    assert policy == PATH[passed - 1]
    p_values = [binomial_p_value(lost_under(p, answers), ROWS, EPSILON) for p in PATH]
    assert max(p_values[:passed]) <= DELTA < p_values[passed]
    (promise,) = certificate.promises
    assert promise.p_value == p_values[passed - 1]
    assert promise.mean_loss == pytest.approx(lost_under(policy, answers) / ROWS)
    _, beyond = certified(answers, path=PATH[passed:])
    assert not beyond.certified


def test_a_path_that_passes_whole_deploys_its_most_eager_policy() -> None:
    cautious = PATH[:10]
    policy, certificate = certified(simulated(1), path=cautious)
    assert policy == cautious[-1]
    assert certificate.policies_passed == 10


@pytest.mark.parametrize("path", [[], [Policy((0.0,))]], ids=["empty", "too eager"])
@pytest.mark.parametrize("label_epsilon", [None, 0.05])
def test_nothing_certified_deploys_full_depth(
    path: list[Policy], label_epsilon: float | None
) -> None:
    policy, certificate = certified(simulated(2), path=path, label_epsilon=label_epsilon)
    assert policy == Policy.full(2)
    assert not certificate.certified
    assert certificate.policies_passed == 0
    assert [(p.mean_loss, p.p_value) for p in certificate.promises] == [(0, 1)]
    assert all(label.mean_loss is None for label in certificate.label_floor)
    assert "full-depth policy is deployed" in certificate.sentence


@pytest.mark.parametrize("seed", range(5))
def test_several_promises_pass_only_where_each_one_does(seed: int) -> None:
    answers = simulated(seed)
    strict = Guarantee("hamming", "model", 0.03)
    _, both = certified(answers, AGREEMENT, strict)
    alone = [certified(answers, promise)[1].policies_passed for promise in (AGREEMENT, strict)]
    assert both.policies_passed == min(alone)
    assert [(p.guarantee, p.epsilon) for p in both.promises] == [
        ("set-agreement", EPSILON),
        ("hamming", 0.03),
    ]
    assert max(p.p_value for p in both.promises) <= DELTA


def test_a_label_that_loses_too_much_holds_the_policy_back() -> None:
    answers = simulated(3)
    _, alone = certified(answers)
    policy, certificate = certified(answers, label_epsilon=0.05)
    assert 0 < certificate.policies_passed < alone.policies_passed
    common, rare = certificate.label_floor
    assert common.mean_loss == pytest.approx(lost_under(policy, answers) / ROWS)
    assert binomial_p_value(round(common.mean_loss * ROWS), ROWS, 0.05) <= DELTA
    assert (rare.positives, rare.mean_loss) == (20, None)
    assert rare.needed == common.needed == 59
    assert certificate.label_epsilon == 0.05


def test_the_order_of_the_rows_comes_from_the_generator_alone() -> None:
    answers = simulated(4)
    _, one = certified(answers, REGRET)
    _, same = certified(answers, REGRET)
    assert one == same
    other = certify(
        PATH, answers, answers[-1].labels, Guarantees((REGRET,)), NAMES, np.random.default_rng(1)
    )[1]
    assert other.promises[0].p_value != one.promises[0].p_value


@pytest.mark.parametrize(
    ("promises", "method"),
    [
        ((AGREEMENT,), "exact binomial p-values"),
        ((REGRET,), "betting p-values for bounded losses"),
        (
            (AGREEMENT, HAMMING),
            "exact binomial p-values and betting p-values for bounded losses, "
            "the largest of them at each step",
        ),
    ],
)
def test_the_certificate_says_how_it_was_obtained(
    promises: tuple[Guarantee, ...], method: str
) -> None:
    _, certificate = certified(simulated(5), *promises)
    assert certificate.method.startswith("Learn-then-Test: fixed-sequence testing")
    assert certificate.method.endswith(f", {method}")
    assert (certificate.rows, certificate.delta) == (ROWS, DELTA)


@pytest.mark.parametrize("against", ["model", "labels"])
@pytest.mark.parametrize("loss", ["set-agreement", "hamming", "sample-f1", "micro-f1"])
def test_too_few_rows_are_refused_with_the_number_that_is_needed(
    loss: GuaranteeKind, against: Against
) -> None:
    guarantees = Guarantees((Guarantee(loss, against, 0.05),), DELTA)
    with pytest.raises(CalibrationError, match=rf"has 20 rows: for {loss} at epsilon 0\.05") as few:
        check_rows(guarantees, 20, labels=2)
    needed = int(str(few.value).split("at least ")[1].split()[0])
    check_rows(guarantees, needed, labels=2)
    with pytest.raises(CalibrationError, match="more rows, or raise --epsilon or --delta"):
        check_rows(guarantees, needed - 1, labels=2)

    def best(rows: int) -> bool:
        """One label right on every row, and no row leaves early with another answer."""
        sets = np.zeros((rows, 2), bool)
        sets[:, 0] = True
        exits = [Answers(sets.astype(np.float32), sets, np.ones(rows, np.float32))] * 2
        rng = np.random.default_rng(0)
        return certify(PATH, exits, sets, guarantees, NAMES, rng)[1].certified

    assert best(needed)
    assert not best(int(needed / 1.06) - 2)


def test_the_promise_that_needs_most_rows_decides() -> None:
    both = Guarantees((Guarantee(epsilon=0.1), Guarantee("hamming", "model", 0.01)), DELTA)
    check_rows(both, 5000, labels=4)
    with pytest.raises(CalibrationError, match=r"for hamming at epsilon 0\.01"):
        check_rows(both, 200, labels=4)


def test_rows_with_many_labels_are_enough_where_rows_with_one_are_not() -> None:
    micro = Guarantees((Guarantee("micro-f1", "labels", 0.02),), DELTA)
    with pytest.raises(CalibrationError, match="micro-f1"):
        check_rows(micro, 1000, labels=14)
    check_rows(micro, 1000, labels=14, size=4.2)
