from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calibration.dataset import Dataset, from_arrays
from calibration.encoded_rows import CHUNK_ROWS, EncodedRows
from models.encoders import open_encoder
from models.encoding import Encoded, Encoder, Group, RawRows
from models.errors import CalibrationError
from models.preprocessing import NumberPreprocessing, TensorSpec

ROWS = 2 * CHUNK_ROWS + 90
NUMBERS = open_encoder(NumberPreprocessing(), (TensorSpec(name="x", row_shape=(2,)),), {})


class ByLength:
    """Row [number, length] becomes its number, repeated: three lengths."""

    def encode(self, rows: RawRows) -> Encoded:
        lengths = np.asarray(rows)[:, 1].astype(int)
        groups = []
        for length in np.unique(lengths):
            places = np.flatnonzero(lengths == length)
            groups.append(Group(places, (np.repeat(np.asarray(rows)[places, :1], length, 1),)))
        return Encoded(groups, {})


def make_dataset(rows: int = ROWS) -> Dataset:
    """Row r is [r, 1 + r % 3]; its first label says whether r is even."""
    numbers = np.arange(rows, dtype=np.float32)
    labels = np.stack([numbers % 2 == 0, numbers % 5 == 0], axis=1)
    return from_arrays(np.stack([numbers, 1 + numbers % 3], axis=1), labels, ("even", "fifth"))


def make_rows(encoder: Encoder, chosen: np.ndarray, cached: bool) -> EncodedRows:
    limits = {} if cached else {"cache_bytes": 100, "buffer_bytes": 900}
    rows = EncodedRows(make_dataset(), chosen, encoder, **limits)
    assert rows.cached == cached
    return rows


@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize("encoder", [NUMBERS, ByLength()], ids=["one shape", "three shapes"])
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000), size=st.integers(1, 70), share=st.floats(0.2, 1))
def test_every_row_comes_once_with_its_labels(
    encoder: Encoder, cached: bool, seed: int, size: int, share: float
) -> None:
    rng = np.random.default_rng(seed)
    chosen = np.flatnonzero(rng.random(ROWS) < share)
    seen = []
    for batch in make_rows(encoder, chosen, cached).shuffled(size, rng):
        assert 0 < len(batch) <= size
        numbers = batch.tensors[0][:, 0]
        np.testing.assert_array_equal(batch.labels[:, 0], numbers % 2 == 0)
        np.testing.assert_array_equal(batch.labels[:, 1], numbers % 5 == 0)
        assert batch.labels.dtype == np.float32
        seen += numbers.tolist()
    assert sorted(seen) == chosen.tolist()


@pytest.mark.parametrize("cached", [True, False])
def test_the_generator_decides_the_order(cached: bool) -> None:
    rows = make_rows(NUMBERS, np.arange(ROWS), cached)

    def order(seed: int) -> list[float]:
        batches = rows.shuffled(32, np.random.default_rng(seed))
        return [number for batch in batches for number in batch.tensors[0][:, 0].tolist()]

    assert order(1) == order(1) != order(2)
    assert order(1) != sorted(order(1))


@pytest.mark.parametrize("cached", [True, False])
def test_in_order_is_the_same_every_time(cached: bool) -> None:
    rows = make_rows(NUMBERS, np.arange(0, ROWS, 2), cached)
    found = [n for batch in rows.in_order(50) for n in batch.tensors[0][:, 0].tolist()]
    assert found == list(range(0, ROWS, 2))


def test_what_does_not_fit_the_buffer_leaves_before_the_rest_is_read() -> None:
    read = []

    def chunks(size: int) -> Iterator[RawRows]:
        for chunk in make_dataset().read(size):
            read.append(len(chunk))
            yield chunk

    data = replace(make_dataset(), read=chunks)
    rows = EncodedRows(data, np.arange(ROWS), NUMBERS, cache_bytes=100, buffer_bytes=900)
    read.clear()
    next(rows.shuffled(32, np.random.default_rng(0)))
    assert read == [CHUNK_ROWS]


def test_no_batch_is_a_tiny_rest() -> None:
    rows = make_rows(NUMBERS, np.arange(65), cached=True)
    sizes = [len(batch) for batch in rows.shuffled(32, np.random.default_rng(0))]
    assert sorted(sizes) == [21, 22, 22]


def test_an_example_has_the_shape_of_the_rows() -> None:
    for cached in (True, False):
        (example,) = make_rows(NUMBERS, np.arange(5, ROWS), cached).example(rows=3)
        np.testing.assert_array_equal(example, [[5, 3]] * 3)


def test_a_row_that_cannot_be_encoded_is_named() -> None:
    data = make_dataset(20)
    broken = np.array(next(data.read(20)))
    broken[13] = np.nan
    data = from_arrays(broken, data.labels, data.names, place="table.csv, line {}".format)
    with pytest.raises(CalibrationError, match=r"table.csv, line 13: found nan.*--skip-bad"):
        EncodedRows(data, np.arange(10, 20), NUMBERS)
    assert len(EncodedRows(data, np.arange(13), NUMBERS)) == 13


@pytest.mark.parametrize("limit", [0, 10**6])
def test_rows_that_cannot_be_encoded_may_be_skipped(limit: int) -> None:
    numbers = np.array(next(make_dataset(40).read(40)))
    numbers[[3, 13, 39]] = np.nan
    data = from_arrays(numbers, make_dataset(40).labels, ("even", "fifth"))
    rows = EncodedRows(data, np.arange(0, 40), NUMBERS, skip_bad=True, cache_bytes=limit)
    good = [row for row in range(40) if row not in {3, 13, 39}]
    assert len(rows) == 37
    seen = [n for batch in rows.in_order(8) for n in batch.tensors[0][:, 0].tolist()]
    assert seen == good


def test_texts_are_taken_by_their_places() -> None:
    texts = [f"text {number}" for number in range(9)]

    class Lengths:
        def encode(self, rows: RawRows) -> Encoded:
            assert list(rows) == ["text 2", "text 7"]
            return Encoded([Group(np.arange(2), (np.zeros((2, 3)),))], {})

    data = replace(make_dataset(9), kind="text", read=lambda size: iter([texts]))
    assert len(EncodedRows(data, np.array([2, 7]), Lengths())) == 2
