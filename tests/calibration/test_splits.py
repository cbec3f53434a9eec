"""Drawing the splits, and the hashes that record them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calibration.dataset import SPLITS, TO_BE_DRAWN, Dataset, from_arrays
from calibration.splits import (
    MIN_ROWS,
    SHARES,
    assign_splits,
    hash_rows,
    split_digests,
    split_number,
)
from models.errors import CalibrationError


def rows(**given: int) -> Dataset:
    """Rows to be drawn, then rows of given splits."""
    numbers = {"drawn": TO_BE_DRAWN, **{name: number for number, name in enumerate(SPLITS)}}
    split = np.concatenate([np.full(count, numbers[name]) for name, count in given.items()])
    inputs = np.arange(len(split), dtype=np.float32)[:, None]
    return from_arrays(inputs, np.ones((len(split), 1), bool), ("a",), split.astype(np.int8))


def sizes(split: np.ndarray) -> dict[str, int]:
    return dict(zip(SPLITS, np.bincount(split, minlength=4).tolist(), strict=True))


@settings(max_examples=50, deadline=None)
@given(count=st.integers(700, 3000), seed=st.integers(0, 2**32 - 1))
def test_shares_are_kept_to_the_row(count: int, seed: int) -> None:
    split = assign_splits(rows(drawn=count), seed)
    assert split.shape == (count,)
    assert split.dtype == np.int8
    for name, size in sizes(split).items():
        assert abs(size - SHARES[name] * count) <= 1


def test_the_seed_decides_the_draw() -> None:
    data = rows(drawn=1000)
    np.testing.assert_array_equal(assign_splits(data, 3), assign_splits(data, 3))
    assert (assign_splits(data, 3) != assign_splits(data, 4)).any()


def test_every_place_is_as_likely_to_be_drawn() -> None:
    """The share of fit among the first rows, over 200 seeds, within three standard errors."""
    data = rows(drawn=700)
    first = [np.mean(assign_splits(data, seed)[:50] == 0) for seed in range(200)]
    assert np.mean(first) == pytest.approx(0.6, abs=3 * np.sqrt(0.24 / (50 * 200)))


def test_given_rows_stay_and_the_others_are_drawn_among_the_rest() -> None:
    data = rows(drawn=900, test=70, tune=120)
    split = assign_splits(data, 0)
    np.testing.assert_array_equal(split[900:], data.split[900:])
    assert sizes(split) == {"fit": 720, "tune": 120, "certify": 180, "test": 70}


def test_rows_are_all_fit_where_the_other_splits_are_given() -> None:
    split = assign_splits(rows(drawn=150, tune=100, certify=60, test=50), 0)
    assert sizes(split) == {"fit": 150, "tune": 100, "certify": 60, "test": 50}
    split = assign_splits(rows(fit=90, drawn=60, tune=100, certify=60, test=50), 0)
    assert sizes(split)["fit"] == 150


def test_shares_can_be_chosen_and_need_not_sum_to_one() -> None:
    shares = {"fit": 5, "tune": 2, "certify": 2, "test": 1}
    assert sizes(assign_splits(rows(drawn=1000), 0, shares)) == {
        "fit": 500,
        "tune": 200,
        "certify": 200,
        "test": 100,
    }


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ({"fit": 1.0, "holdout": 1.0}, "'holdout': expected the splits fit, tune"),
        ({"fit": 1.0, "tune": 1.0, "certify": 1.0}, "test: None"),
        ({"fit": 1.0, "tune": 0.0, "certify": -1.0, "test": np.nan}, "tune: 0.0, certify: -1.0"),
    ],
)
def test_shares_that_cannot_be_used_are_named(shares: dict[str, float], message: str) -> None:
    with pytest.raises(CalibrationError, match=message):
        assign_splits(rows(drawn=1000), 0, shares)


def test_too_few_rows_are_refused_in_one_paragraph() -> None:
    with pytest.raises(CalibrationError) as caught:
        assign_splits(rows(drawn=300, test=49), 0)
    message = str(caught.value)
    assert "too few rows in tune and test. Of 349 rows" in message
    assert "fit 200 (drawn, needs 100)" in message
    assert "tune 50 (drawn, needs 100)" in message
    assert "certify 50 (drawn, needs 50)" in message
    assert "test 49 (given, needs 50)" in message
    assert "Give more rows" in message
    assert "\n" not in message


@pytest.mark.parametrize("short", SPLITS)
def test_a_split_needs_its_fewest_rows(short: str) -> None:
    assert sizes(assign_splits(rows(**MIN_ROWS), 0)) == MIN_ROWS
    with pytest.raises(CalibrationError, match=f"too few rows in {short}\\."):
        assign_splits(rows(**{**MIN_ROWS, short: MIN_ROWS[short] - 1}), 0)


@pytest.mark.parametrize(
    ("value", "split"), [("fit", 0), (" Train ", 0), ("VALID", 1), ("calibration", 2), ("test", 3)]
)
def test_split_names(value: str, split: int) -> None:
    assert split_number(value, "row 1") == split


@pytest.mark.parametrize("value", ["", None, 0, -1, "holdout"])
def test_other_split_names_are_refused(value: object) -> None:
    with pytest.raises(CalibrationError, match=r"row 1 has the split .*expected one of fit, tune"):
        split_number(value, "row 1")


def test_equal_rows_have_equal_hashes_and_others_differ() -> None:
    hashes = hash_rows(["one", "two", "one", "", "\ud800"])
    assert hashes.dtype == np.uint64
    assert hashes[0] == hashes[2]
    assert len(set(hashes.tolist())) == 4
    np.testing.assert_array_equal(hash_rows([b"one", b"two"]), hashes[:2])


@settings(max_examples=30, deadline=None)
@given(count=st.integers(0, 20), size=st.integers(1, 7))
def test_hashes_do_not_depend_on_chunks(count: int, size: int) -> None:
    x = np.random.default_rng(count).random((count, 2, 3))
    parts = [hash_rows(x[start : start + size]) for start in range(0, count, size)]
    joined = np.concatenate([np.zeros(0, np.uint64), *parts])
    np.testing.assert_array_equal(joined, hash_rows(x))
    np.testing.assert_array_equal(joined, hash_rows(x.copy(order="F")))
    assert len(set(joined.tolist())) == count


def test_a_digest_follows_the_rows_and_labels_of_its_split_only() -> None:
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 2**63, 40, np.uint64)
    labels = rng.random((40, 9)) < 0.5
    split = np.repeat(np.arange(4, dtype=np.int8), 10)
    before = split_digests(hashes, labels, split)
    assert list(before) == list(SPLITS)
    assert len(set(before.values())) == 4
    other_rows, other_labels, other_split = hashes.copy(), labels.copy(), split.copy()
    other_rows[35] += np.uint64(1)
    other_labels[12, 8] ^= True
    other_split[29] = 3
    assert changed(before, split_digests(other_rows, labels, split)) == {"test"}
    assert changed(before, split_digests(hashes, other_labels, split)) == {"tune"}
    assert changed(before, split_digests(hashes, labels, other_split)) == {"certify", "test"}


def changed(before: dict[str, str], after: dict[str, str]) -> set[str]:
    return {name for name in before if before[name] != after[name]}
