from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mapie.risk_control.methods import compute_hoeffding_bentkus_p_value
from scipy.stats import binomtest

from calibration.guarantee import Guarantee
from calibration.p_values import (
    betting_p_value,
    binomial_p_value,
    fewest_rows,
    micro_f1_interval,
    promise_p_value,
)

DELTA = 0.05
LEVELS = st.floats(0.001, 0.999)
ALL = [
    Guarantee(loss, against, 0.1)
    for loss in ("set-agreement", "hamming", "sample-f1", "micro-f1")
    for against in ("model", "labels")
]
EACH = pytest.mark.parametrize("guarantee", ALL, ids=lambda g: f"{g.loss}-{g.against}")


def noisy(sets: np.ndarray, rate: float, rng: np.random.Generator) -> np.ndarray:
    return np.asarray(sets ^ (rng.random(sets.shape) < rate))


@given(st.integers(1, 3000), st.floats(0, 1), LEVELS)
def test_the_binomial_p_value_equals_scipys_exact_test(
    rows: int, share: float, epsilon: float
) -> None:
    losses = round(share * rows)
    expected = binomtest(losses, rows, epsilon, alternative="less").pvalue
    assert binomial_p_value(losses, rows, epsilon) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    ("rows", "tolerated"), [(300, 0), (500, 1), (1000, 4), (2000, 12), (5000, 38)]
)
def test_known_numbers_of_tolerated_losses(rows: int, tolerated: int) -> None:
    fewer, more = (binomial_p_value(tolerated + extra, rows, 0.01) for extra in (0, 1))
    assert fewer <= 0.05 < more


@given(st.integers(1, 3000), st.floats(0, 1), st.floats(0.001, 0.5), st.booleans())
def test_the_binomial_p_value_is_never_larger_than_mapies_hoeffding_bentkus(
    rows: int, share: float, epsilon: float, binary: bool
) -> None:
    losses = round(share * rows)
    theirs = compute_hoeffding_bentkus_p_value(np.array([losses / rows]), rows, epsilon, binary)
    assert binomial_p_value(losses, rows, epsilon) <= theirs.item() * (1 + 1e-9)


@given(st.integers(2, 11), st.floats(0, 1), st.floats(0.001, 0.5))
def test_the_binomial_p_value_equals_mapies_for_binary_losses(
    power: int, share: float, epsilon: float
) -> None:
    """Rows are a power of two: their count of losses is then exact."""
    rows = 2**power
    losses = round(share * epsilon * rows)
    theirs = compute_hoeffding_bentkus_p_value(np.array([losses / rows]), rows, epsilon, True)
    assert binomial_p_value(losses, rows, epsilon) == pytest.approx(theirs.item(), rel=1e-9)


@pytest.mark.parametrize("epsilon", [0.05, 0.2])
def test_betting_beats_mapies_hoeffding_bentkus_on_losses_of_small_variance(
    epsilon: float,
) -> None:
    rng = np.random.default_rng(0)
    losses = rng.random(500) * epsilon  # half of what is allowed
    theirs = compute_hoeffding_bentkus_p_value(np.array([losses.mean()]), 500, epsilon).item()
    assert betting_p_value(losses - epsilon, 1 - epsilon, DELTA) < theirs


@pytest.mark.parametrize("delta", [0.05, 0.5])
@pytest.mark.parametrize(
    ("values", "chances"),
    [
        ((-0.3, 0.7), (0.7, 0.3)),
        ((-0.05, 0.95), (0.95, 0.05)),
        ((-1.2, -0.2, 0.8), (0.2, 0.4, 0.4)),
    ],
)
def test_the_betting_p_value_is_no_smaller_than_uniform_at_any_level_exactly(
    values: Sequence[float], chances: Sequence[float], delta: float
) -> None:
    """All sequences of a few rows with mean zero, each with its chance."""
    assert np.dot(values, chances) == pytest.approx(0)
    rows = 12 if len(values) == 2 else 7
    sequences = list(product(range(len(values)), repeat=rows))
    chance = np.prod(np.array(chances)[np.array(sequences)], axis=1)
    excess = np.array(values)[np.array(sequences)]
    p_values = np.array([betting_p_value(row, max(values), delta) for row in excess])
    for level in np.unique(p_values):
        assert chance[p_values <= level].sum() <= level + 1e-9
    assert p_values.min() < 0.7


@given(st.integers(0, 2**32 - 1), st.integers(1, 200), st.floats(0.01, 0.5))
def test_betting_gives_a_p_value_for_all_rows(seed: int, rows: int, epsilon: float) -> None:
    excess = np.random.default_rng(seed).uniform(-1, 1, rows) - epsilon
    assert 0 <= betting_p_value(excess, 1 - epsilon, DELTA) <= 1


def test_betting_finds_more_evidence_in_more_rows_and_none_in_rows_above_zero() -> None:
    rng = np.random.default_rng(4)
    excess = (rng.random(2000) < 0.05) - 0.1
    p_values = [betting_p_value(excess[:rows], 0.9, DELTA) for rows in (20, 200, 800, 2000)]
    assert p_values == sorted(p_values, reverse=True)
    assert p_values[0] > DELTA > p_values[-1]
    assert betting_p_value(np.full(100, 0.01), 0.9, DELTA) == 1


@EACH
def test_answers_like_the_full_models_are_proven_and_bad_ones_are_not(
    guarantee: Guarantee,
) -> None:
    rng = np.random.default_rng(5)
    truth = rng.random((1500, 5)) < 0.4
    full = noisy(truth, 0.05, rng)
    assert promise_p_value(guarantee, DELTA, full, full, truth) <= DELTA
    worse = [
        promise_p_value(guarantee, DELTA, noisy(full, rate, rng), full, truth)
        for rate in (0.01, 0.1, 0.3)
    ]
    assert worse == sorted(worse)
    assert worse[-1] > 0.9


@pytest.mark.parametrize("loss", ["set-agreement", "hamming", "sample-f1", "micro-f1"])
def test_answers_better_than_the_full_models_are_proven_against_labels(loss: str) -> None:
    rng = np.random.default_rng(6)
    truth = rng.random((1000, 5)) < 0.4
    full = noisy(truth, 0.2, rng)
    strict = Guarantee(loss, "labels", 0.001)
    assert promise_p_value(strict, DELTA, truth, full, truth) <= DELTA


def test_a_loss_of_all_labels_is_taken_by_the_bets_on_micro_f1() -> None:
    """The largest excess possible, at once: capital stays positive, and no warning is raised."""
    truth = np.ones((400, 6), bool)
    for against in ("model", "labels"):
        answers = truth.copy()
        answers[200:] = False
        p_value = promise_p_value(Guarantee("micro-f1", against, 0.1), DELTA, answers, truth, truth)
        assert 0 < p_value <= 1


@given(st.integers(0, 2**32 - 1), st.integers(150, 300))
def test_no_bet_knows_its_own_row(seed: int, rows: int) -> None:
    """The capital is then linear in the last row, as it is largest at the end."""
    excess = np.random.default_rng(seed).uniform(-0.7, 0, rows)

    def capital(last: float) -> float:
        return 1 / betting_p_value(np.append(excess, last), 0.9, DELTA)

    low, middle, high = (capital(last) for last in (-0.2, -0.5, -0.8))
    assert low < middle < high
    assert high - middle == pytest.approx(middle - low, rel=1e-6)


def test_evidence_of_the_first_rows_is_not_lost_by_later_ones() -> None:
    rng = np.random.default_rng(7)
    truth = rng.random((4000, 6)) < 0.4
    full = noisy(truth, 0.1, rng)
    after = full.copy()
    after[2000:] ^= True
    guarantee = Guarantee("micro-f1", "model", 0.1)
    assert promise_p_value(guarantee, DELTA, after, full, truth) <= DELTA


def test_the_interval_of_micro_f1_narrows_around_the_measured_one() -> None:
    rng = np.random.default_rng(8)
    truth = rng.random((20_000, 4)) < 0.3
    answers = noisy(truth, 0.1, rng)
    widths = []
    for rows in (500, 4000, 20_000):
        hits = (answers[:rows] & truth[:rows]).sum()
        f1 = 2 * hits / (answers[:rows].sum() + truth[:rows].sum())
        low, high = micro_f1_interval(answers[:rows], truth[:rows], DELTA)
        assert 0 <= low < f1 < high <= 1
        widths.append(high - low)
    assert widths == sorted(widths, reverse=True)
    assert widths[-1] < 0.03


def test_no_rows_of_any_label_say_nothing_of_micro_f1() -> None:
    nothing = np.zeros((50, 3), bool)
    assert micro_f1_interval(nothing, nothing, DELTA) == (0, 1)


def best_answers(rows: int, labels: int, size: int) -> np.ndarray:
    sets = np.zeros((rows, labels), bool)
    sets[:, :size] = True
    return sets


@EACH
@pytest.mark.parametrize("epsilon", [0.01, 0.05, 0.3])
@pytest.mark.parametrize("size", [1, 3])
def test_the_fewest_rows_are_enough_and_not_many_more_than_needed(
    guarantee: Guarantee, epsilon: float, size: int
) -> None:
    promise = Guarantee(guarantee.loss, guarantee.against, epsilon)
    needed = fewest_rows(promise, DELTA, 5, size)

    def proven(rows: int) -> bool:
        sets = best_answers(rows, 5, size)
        return promise_p_value(promise, DELTA, sets, sets, sets) <= DELTA

    assert all(proven(rows) for rows in (needed, needed + 1, 2 * needed, 10 * needed))
    assert not proven(int(needed / 1.06) - 2)


@given(st.floats(0.001, 0.9), st.floats(0.001, 0.5))
def test_the_fewest_rows_of_set_agreement_are_exact(epsilon: float, delta: float) -> None:
    needed = fewest_rows(Guarantee("set-agreement", "model", epsilon), delta, 4)
    assert binomial_p_value(0, needed, epsilon) <= delta * (1 + 1e-12)
    assert needed == 1 or binomial_p_value(0, needed - 1, epsilon) > delta * (1 - 1e-12)


def test_two_hundred_and_ninety_nine_rows_are_needed_for_one_per_cent() -> None:
    assert fewest_rows(Guarantee("set-agreement", "model", 0.01), 0.05, 28) == 299


def test_only_micro_f1_needs_more_rows_for_more_labels_and_fewer_for_larger_sets() -> None:
    for guarantee in ALL:
        few, many, large = (
            fewest_rows(guarantee, DELTA, labels, size)
            for labels, size in ((5, 1), (50, 1), (50, 5))
        )
        if guarantee.loss == "micro-f1":
            assert few < many
            assert large < many
        else:
            assert few == many == large
