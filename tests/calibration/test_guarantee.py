from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibration.guarantee import Against, Guarantee, GuaranteeOptions, Guarantees
from models.errors import CalibrationError
from models.manifest import GuaranteeKind

KINDS = [(loss, against) for loss in get_args(GuaranteeKind) for against in get_args(Against)]
EACH = pytest.mark.parametrize(("loss", "against"), KINDS)
SEEDS = st.integers(0, 2**32 - 1)
NO_LEVELS = [0, 1, -0.1, 2, float("nan"), float("inf")]


def sets(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Label sets of a policy, of the full model, and true ones: bool (40, 4) each."""
    rng = np.random.default_rng(seed)
    truth = rng.random((40, 4)) < 0.4
    full = truth ^ (rng.random(truth.shape) < 0.15)
    return full ^ (rng.random(truth.shape) < 0.1), full, truth


@EACH
@given(seed=SEEDS)
def test_the_full_model_loses_nothing(loss: GuaranteeKind, against: Against, seed: int) -> None:
    _, full, truth = sets(seed)
    assert (Guarantee(loss, against).row_losses(full, full, truth) == 0).all()


@pytest.mark.parametrize("loss", get_args(GuaranteeKind))
@given(seed=SEEDS)
def test_regret_changes_its_sign_with_the_sides(loss: GuaranteeKind, seed: int) -> None:
    answers, full, truth = sets(seed)
    regret = Guarantee(loss, "labels")
    np.testing.assert_allclose(
        regret.row_losses(answers, full, truth), -regret.row_losses(full, answers, truth)
    )


@pytest.mark.parametrize("loss", get_args(GuaranteeKind))
@given(seed=SEEDS)
def test_true_labels_do_not_matter_against_the_model(loss: GuaranteeKind, seed: int) -> None:
    answers, full, truth = sets(seed)
    promise = Guarantee(loss, "model")
    losses = promise.row_losses(answers, full, truth)
    np.testing.assert_array_equal(losses, promise.row_losses(answers, full, ~truth))


def test_a_policy_better_than_the_full_model_has_a_negative_regret() -> None:
    truth = np.array([[True, False], [True, True]])
    full = np.array([[False, False], [True, False]])
    losses = Guarantee("sample-f1", "labels").row_losses(truth, full, truth)
    np.testing.assert_allclose(losses, [-1, -1 / 3])


@EACH
def test_only_the_agreement_of_whole_sets_with_the_model_is_binary(
    loss: GuaranteeKind, against: Against
) -> None:
    promise = Guarantee(loss, against)
    assert promise.binary == ((loss, against) == ("set-agreement", "model"))
    losses = [promise.row_losses(*sets(seed)) for seed in range(20)]
    assert promise.binary == (set(np.concatenate(losses)) == {0, 1})


def test_a_row_is_lost_by_any_of_the_losses() -> None:
    answers, full, truth = sets(0)
    strict, wide = Guarantee("hamming", "model", 0.001), Guarantee("set-agreement", "model", 0.9)
    lost = Guarantees((wide, strict)).lost(answers, full, truth)
    np.testing.assert_array_equal(lost, (answers != full).any(axis=1))


def test_rows_that_are_better_than_the_full_models_are_not_lost() -> None:
    _, full, truth = sets(1)
    assert (full != truth).any()
    assert not Guarantees((Guarantee("hamming", "labels"),)).lost(truth, full, truth).any()


@pytest.mark.parametrize("level", NO_LEVELS)
def test_levels_outside_zero_and_one_are_refused(level: float) -> None:
    expected = f"is {level}: expected a number between 0 and 1"
    with pytest.raises(CalibrationError, match=f"^epsilon {expected}"):
        GuaranteeOptions(epsilons=(level,))
    with pytest.raises(CalibrationError, match=f"^delta {expected}"):
        GuaranteeOptions(delta=level)
    with pytest.raises(CalibrationError, match=f"^label-epsilon {expected}"):
        GuaranteeOptions(label_epsilon=level)


@pytest.mark.parametrize("second", [0.05, 0.02])
def test_a_loss_given_twice_contradicts_itself(second: float) -> None:
    with pytest.raises(CalibrationError, match=r"hamming is given 2 times, with epsilon 0\.02 and"):
        GuaranteeOptions(losses=("hamming", "hamming"), epsilons=(0.02, second))


@pytest.mark.parametrize(
    ("losses", "epsilons"),
    [((), (0.1, 0.2)), (("hamming",), (0.1, 0.2)), (("hamming", "micro-f1"), (0.1, 0.2, 0.3))],
)
def test_there_is_one_epsilon_for_all_losses_or_one_for_each(
    losses: tuple[GuaranteeKind, ...], epsilons: tuple[float, ...]
) -> None:
    with pytest.raises(
        CalibrationError,
        match=rf"--epsilon is given {len(epsilons)} times for {len(losses)} --guarantee: expected",
    ):
        GuaranteeOptions(losses=losses, epsilons=epsilons)


def test_epsilons_belong_to_the_losses_in_their_order() -> None:
    both: tuple[GuaranteeKind, ...] = ("hamming", "micro-f1")
    each = GuaranteeOptions(both, epsilons=(0.1, 0.2)).resolved(has_head=True)
    assert [(p.loss, p.epsilon) for p in each.promises] == [("hamming", 0.1), ("micro-f1", 0.2)]
    one = GuaranteeOptions(both, epsilons=(0.1,)).resolved(has_head=True)
    assert [p.epsilon for p in one.promises] == [0.1, 0.1]


@pytest.mark.parametrize(
    ("has_head", "against", "expected"),
    [
        (True, None, ("set-agreement", "model")),
        (False, None, ("sample-f1", "labels")),
        (True, "labels", ("sample-f1", "labels")),
        (False, "model", ("set-agreement", "model")),
    ],
)
def test_what_is_left_out_follows_from_the_model(
    has_head: bool, against: Against | None, expected: tuple[GuaranteeKind, Against]
) -> None:
    guarantees = GuaranteeOptions(against=against).resolved(has_head)
    assert [(p.loss, p.against) for p in guarantees.promises] == [expected]
    assert guarantees.against == expected[1]


def test_everything_said_is_passed_on() -> None:
    options = GuaranteeOptions(("micro-f1",), "labels", (0.03,), delta=0.1, label_epsilon=0.2)
    expected = Guarantees((Guarantee("micro-f1", "labels", 0.03),), 0.1, 0.2)
    assert options.resolved(has_head=True) == options.resolved(has_head=False) == expected
