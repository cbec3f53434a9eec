from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibration.guarantee import Against
from calibration.label_floor import LabelTests
from calibration.p_values import binomial_p_value

EPSILON, DELTA = 0.1, 0.05
NAMES = ("common", "usual", "rare")
EACH = pytest.mark.parametrize("against", get_args(Against))


def sets(seed: int, rows: int = 400) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Label sets of a policy, of the full model, and true ones: bool (n, 3); the last is rare."""
    rng = np.random.default_rng(seed)
    truth = np.zeros((rows, 3), bool)
    truth[:, :2] = rng.random((rows, 2)) < [0.6, 0.4]
    truth[:10, 2] = True
    full = truth & (rng.random(truth.shape) > 0.1)
    return full & (rng.random(truth.shape) > 0.05), full, truth


def floor_of(against: Against, full: np.ndarray, truth: np.ndarray) -> LabelTests:
    return LabelTests.of(against, EPSILON, DELTA, full, truth)


@EACH
def test_a_label_needs_so_many_positives_that_losing_none_would_prove_it(against: Against) -> None:
    def tested(positives: int) -> bool:
        sets = np.zeros((1000, 1), bool)
        sets[:positives] = True
        return floor_of(against, sets, sets).p_value(sets) <= DELTA and bool(
            len(floor_of(against, sets, sets).tested)
        )

    needed = floor_of(against, *sets(0)[1:]).needed
    assert tested(needed)
    assert not tested(needed - 1)


def test_twenty_nine_positives_are_needed_for_a_tenth_of_them() -> None:
    assert floor_of("model", *sets(0)[1:]).needed == 29


@EACH
@given(seed=st.integers(0, 2**32 - 1))
def test_which_labels_are_tested_does_not_depend_on_what_is_answered(
    against: Against, seed: int
) -> None:
    answers, full, truth = sets(seed)
    tests = floor_of(against, full, truth)
    assert tests.tested.tolist() == [0, 1]
    for answered in (answers, truth, ~truth):
        floor = tests.floor(answered, NAMES)
        assert [label.mean_loss is None for label in floor] == [False, False, True]


def test_positives_are_the_full_models_or_the_true_ones() -> None:
    _, full, truth = sets(1)
    for against, positive in (("model", full), ("labels", truth)):
        floor = floor_of(against, full, truth).floor(None, NAMES)
        assert [label.positives for label in floor] == positive.sum(axis=0).tolist()
        assert [label.label for label in floor] == list(NAMES)
        assert all(label.mean_loss is None for label in floor)


def test_losses_against_the_model_are_the_positives_missed() -> None:
    answers, full, truth = sets(2)
    tests = floor_of("model", full, truth)
    for label in (0, 1):
        missed = (full[:, label] & ~answers[:, label]).sum()
        losses = tests.losses(label, answers)
        assert (losses.sum(), len(losses)) == (missed, full[:, label].sum())


def test_losses_against_labels_count_in_excess_of_the_full_models() -> None:
    answers, full, truth = sets(3)
    tests = floor_of("labels", full, truth)
    recall = [
        ((sets & truth).sum(axis=0) / truth.sum(axis=0))[0] for sets in (answers, full, truth)
    ]
    assert tests.losses(0, answers).mean() == pytest.approx(recall[1] - recall[0])
    assert tests.losses(0, truth).mean() == pytest.approx(recall[1] - recall[2])
    assert (tests.losses(0, full) == 0).all()


def test_false_positives_cost_a_label_nothing() -> None:
    _, full, truth = sets(4)
    for against in get_args(Against):
        tests = floor_of(against, full, truth)
        assert tests.losses(0, np.ones_like(full)).max() <= 0


def test_the_worst_label_decides() -> None:
    answers, full, truth = sets(5)
    tests = floor_of("model", full, truth)
    p_values = [
        binomial_p_value(int((full & ~answers)[:, label].sum()), int(full[:, label].sum()), EPSILON)
        for label in tests.tested
    ]
    assert tests.p_value(answers) == max(p_values) > min(p_values)


@EACH
def test_labels_that_lose_nothing_pass_and_one_that_loses_much_does_not(against: Against) -> None:
    _, full, truth = sets(6)
    tests = floor_of(against, full, truth)
    assert tests.p_value(full) <= DELTA
    broken = full.copy()
    broken[:, 1] &= np.arange(len(full)) % 5 > 0
    assert tests.p_value(broken) > DELTA


def test_what_a_rare_label_loses_stops_nothing() -> None:
    _, full, truth = sets(7)
    blind = full.copy()
    blind[:, 2] = False
    tests = floor_of("model", full, truth)
    assert tests.p_value(blind) == tests.p_value(full)


def test_with_no_label_to_test_nothing_stands_against_a_policy() -> None:
    _, full, truth = sets(8, rows=20)
    tests = floor_of("model", full, truth)
    assert len(tests.tested) == 0
    assert tests.p_value(~full) == 0
    assert all(label.mean_loss is None for label in tests.floor(full, NAMES))


def test_labels_chosen_on_other_rows_hardly_ever_have_too_few_positives_here() -> None:
    rng = np.random.default_rng(0)
    shares = np.linspace(0.01, 0.3, 30)
    short = 0
    for _ in range(200):
        truth = rng.random((400, 30)) < shares
        tests = LabelTests.of("model", EPSILON, DELTA, truth, truth, shares)
        assert 0 < len(tests.tested) < 30
        short += bool((truth.sum(axis=0)[tests.tested] < tests.needed).any())
    assert short <= 4


def test_which_labels_are_chosen_on_other_rows_does_not_depend_on_these() -> None:
    _, full, truth = sets(3)
    shares = np.array([0.5, 0.01, 0.5])
    chosen = [
        LabelTests.of("labels", EPSILON, DELTA, full, rows, shares).tested.tolist()
        for rows in (truth, ~truth, truth & False)
    ]
    assert chosen == [[0, 2]] * 3


def test_the_floor_says_what_is_expected_and_how_much_would_be_enough() -> None:
    _, full, truth = sets(4)
    shares = np.array([0.5, 0.05, 0.5])
    tests = LabelTests.of("model", EPSILON, DELTA, full, truth, shares)
    floor = tests.floor(None, NAMES)
    assert [label.positives for label in floor] == [int(len(truth) * share) for share in shares]
    enough = floor[0].needed
    assert enough - 3 * enough**0.5 >= tests.needed > enough - 1 - 3 * (enough - 1) ** 0.5
