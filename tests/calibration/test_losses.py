from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, f1_score, hamming_loss

from calibration.losses import pairwise_loss
from models.manifest import GuaranteeKind
from models.set_losses import sample_f1, set_loss

LOSSES = get_args(GuaranteeKind)
OF_A_ROW = [loss for loss in LOSSES if loss != "micro-f1"]
EACH = pytest.mark.parametrize("loss", LOSSES)
SEEDS = st.integers(0, 2**32 - 1)


def sets(seed: int, rows: int = 30, labels: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Two label sets per row that often agree, and are often empty: bool (n, L) each."""
    rng = np.random.default_rng(seed)
    one = rng.random((rows, labels)) < 0.3
    return one, one ^ (rng.random(one.shape) < 0.2)


@given(SEEDS)
def test_mean_losses_equal_scikit_learns(seed: int) -> None:
    answers, target = sets(seed)
    f1 = {
        average: f1_score(target, answers, average=average, zero_division=1.0)
        for average in ("samples", "micro")
    }
    expected = {
        "set-agreement": 1 - accuracy_score(target, answers),
        "hamming": hamming_loss(target, answers),
        "sample-f1": 1 - f1["samples"],
        "micro-f1": 1 - f1["micro"],
    }
    for loss in LOSSES:
        assert set_loss(loss, answers, target).mean() == pytest.approx(expected[loss])


@EACH
@given(seed=SEEDS)
def test_a_row_loses_nothing_where_its_sets_are_equal_and_only_there(
    loss: GuaranteeKind, seed: int
) -> None:
    answers, target = sets(seed)
    equal = (answers == target).all(axis=1)
    np.testing.assert_array_equal(set_loss(loss, answers, target) == 0, equal)


@EACH
@given(seed=SEEDS)
def test_losses_are_symmetric_and_never_negative(loss: GuaranteeKind, seed: int) -> None:
    answers, target = sets(seed)
    losses = set_loss(loss, answers, target)
    np.testing.assert_allclose(losses, set_loss(loss, target, answers))
    assert losses.min() >= 0
    if loss in OF_A_ROW:
        assert losses.max() <= 1


@given(SEEDS)
def test_no_loss_of_a_row_is_larger_than_that_of_its_whole_set(seed: int) -> None:
    answers, target = sets(seed)
    whole = set_loss("set-agreement", answers, target)
    for loss in OF_A_ROW:
        assert (set_loss(loss, answers, target) <= whole).all()


@EACH
@given(seed=SEEDS)
def test_pairwise_losses_hold_the_rowwise_ones_on_their_diagonal(
    loss: GuaranteeKind, seed: int
) -> None:
    one, other = sets(seed)
    pairs = pairwise_loss(loss, one, other)
    np.testing.assert_allclose(np.diag(pairs), set_loss(loss, one, other), atol=1e-6)
    np.testing.assert_allclose(pairs, pairwise_loss(loss, other, one).T, atol=1e-6)


@pytest.mark.parametrize("loss", OF_A_ROW)
@given(seed=SEEDS)
def test_every_pair_has_the_loss_of_the_two_alone(loss: GuaranteeKind, seed: int) -> None:
    one, other = sets(seed, rows=7)
    pairs = pairwise_loss(loss, one, other[:4])
    assert pairs.shape == (7, 4)
    for j, target in enumerate(other[:4]):
        alone = set_loss(loss, one, np.broadcast_to(target, one.shape))
        np.testing.assert_allclose(pairs[:, j], alone, atol=1e-6)


def test_a_pair_of_micro_f1_counts_its_labels_over_the_mean_size() -> None:
    answers = np.array([[True, True, False], [False, False, False]])
    target = np.array([[True, False, True]])
    np.testing.assert_allclose(pairwise_loss("micro-f1", answers, target), [[2 / 3], [2 / 3]])


def test_f1_of_nothing_against_nothing_is_one() -> None:
    nothing = np.zeros((1, 3), bool)
    assert sample_f1(nothing, nothing).tolist() == [1]
    assert sample_f1(nothing, ~nothing).tolist() == [0]
    for loss in LOSSES:
        assert set_loss(loss, nothing, nothing).tolist() == [0]
        assert pairwise_loss(loss, nothing, nothing).tolist() == [[0]]
