from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from models.encoding import Encoded
from models.errors import InvalidInput
from models.number_encoder import NumberEncoder
from models.preprocessing import NumberPreprocessing, TensorSpec


def encoder(
    row_shape: tuple[int | None, ...], dtype: Any = "float32", **preprocessing: Any
) -> NumberEncoder:
    spec = TensorSpec(name="x", dtype=dtype, row_shape=row_shape)
    return NumberEncoder(NumberPreprocessing(**preprocessing), [spec])


def only_tensor(encoded: Encoded) -> np.ndarray:
    (group,) = encoded.groups
    (tensor,) = group.tensors
    return tensor


@settings(deadline=None)
@given(hnp.arrays(np.float64, (5, 2), elements=st.floats(-1e30, 1e30)))
def test_columns_are_standardised(rows: np.ndarray) -> None:
    encoded = encoder((2,), mean=(1.5, -3), scale=(0.5, 2)).encode(rows)
    expected = ((rows - [1.5, -3]) / [0.5, 2]).astype(np.float32)
    np.testing.assert_array_equal(only_tensor(encoded), expected)


def test_standardised_in_double_precision() -> None:
    rows = np.array([[16_777_217.0]])
    assert only_tensor(encoder((1,), mean=(16_777_216,)).encode(rows)).item() == 1


@pytest.mark.parametrize("row_shape", [(), (3,), (2, None), (None, 1, 4)])
def test_any_shape_of_row_is_taken(row_shape: tuple[int | None, ...]) -> None:
    rows = np.random.default_rng(0).normal(size=(4, *(size or 7 for size in row_shape)))
    tensor = only_tensor(encoder(row_shape).encode(rows))
    np.testing.assert_array_equal(tensor, rows.astype(np.float32))


@settings(deadline=None)
@given(
    hnp.arrays(
        np.float64,
        (6, 2, 2),
        elements=st.floats(width=16) | st.sampled_from([np.nan, np.inf, -np.inf, 3.5e38]),
    )
)
def test_rows_with_a_number_that_is_not_finite_are_bad(rows: np.ndarray) -> None:
    encoded = encoder((2, 2)).encode(rows)
    with np.errstate(over="ignore"):
        finite = np.isfinite(rows.astype(np.float32)).all(axis=(1, 2))
    assert sorted(encoded.bad) == np.flatnonzero(~finite).tolist()
    if finite.any():
        assert encoded.groups[0].rows.tolist() == np.flatnonzero(finite).tolist()
        np.testing.assert_array_equal(only_tensor(encoded), rows[finite].astype(np.float32))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ([[0, 0], [0, np.nan]], r"found nan at position \[1, 1\]; expected finite numbers"),
        ([[0, -np.inf], [np.nan, 0]], r"found -inf at position \[0, 1\]"),
        ([[0, 0], [1e39, 0]], r"found 1e\+39 at position \[1, 0\]; .*that float32 can hold:"),
    ],
)
def test_the_first_bad_number_is_named(row: list[list[float]], message: str) -> None:
    encoded = encoder((2, 2)).encode(np.array([row]))
    assert not encoded.groups
    assert re.search(message, encoded.bad[0])


def test_overflow_after_standardisation_is_bad() -> None:
    encoded = encoder((1,), scale=(1e-30,)).encode(np.array([[1.0], [1e10]], np.float32))
    assert "found 10000000000.0 at position [0]" in encoded.bad[1]
    assert "after (x - mean) / scale" in encoded.bad[1]
    assert encoded.groups[0].rows.tolist() == [0]


@pytest.mark.parametrize(
    ("row_shape", "rows", "message"),
    [
        ((3,), np.zeros((2, 4)), "found a row of shape (4,); expected an array of shape (n, 3)"),
        ((3, None), np.zeros((2, 3)), "expected an array of shape (n, 3, any)"),
        ((None,), np.zeros((2, 0)), "found a row of shape (0,)"),
        ((3,), np.array([["a"] * 3] * 2), "found <U1; expected numbers"),
        ((3,), np.zeros((2, 3), complex), "found complex128"),
        ((3,), np.zeros((2, 3), object), "found object"),
        ((3,), ["one", "two"], "found texts or files; expected numbers"),
    ],
)
def test_rows_of_another_kind_are_all_bad(
    row_shape: tuple[int | None, ...], rows: Any, message: str
) -> None:
    encoded = encoder(row_shape).encode(rows)
    assert not encoded.groups
    assert sorted(encoded.bad) == [0, 1]
    assert message in encoded.bad[1]


def test_a_number_without_rows_is_refused() -> None:
    with pytest.raises(InvalidInput, match="one number without rows"):
        encoder(()).encode(np.array(1.0))


@pytest.mark.parametrize("dtype", ["int64", "int32"])
@settings(deadline=None)
@given(st.data())
def test_whole_numbers_are_kept_exactly_or_bad(dtype: str, data: st.DataObject) -> None:
    source = data.draw(st.sampled_from([np.float64, np.float32, np.int64, np.uint64, np.int8]))
    limits = np.iinfo(dtype)
    edges = [limits.min, limits.max, limits.max + 1, limits.min - 1, 2**62 + 1, 0.5]
    if np.dtype(source).kind == "f":
        elements = hnp.from_dtype(np.dtype(source)) | st.sampled_from(edges).map(source)
    else:
        elements = hnp.from_dtype(np.dtype(source))
    rows = data.draw(hnp.arrays(source, 4, elements=elements))
    encoded = encoder((), dtype).encode(rows)
    exact = [
        bool(np.isfinite(value) and int(value) == value and limits.min <= int(value) <= limits.max)
        for value in rows
    ]
    assert [row not in encoded.bad for row in range(4)] == exact
    if any(exact):
        kept = [int(value) for value, good in zip(rows, exact, strict=True) if good]
        assert only_tensor(encoded).tolist() == kept


def test_truth_values() -> None:
    encoded = encoder((), "bool").encode(np.array([0.0, 1.0, 0.5, -1.0, 2.0, np.nan]))
    assert only_tensor(encoded).tolist() == [False, True]
    assert sorted(encoded.bad) == [2, 3, 4, 5]


@pytest.mark.parametrize("dtype", ["uint64", "int64", "float64"])
def test_the_ends_of_the_range_are_exact(dtype: str) -> None:
    rows = np.array([2**63 - 1, 2**62], dtype)
    encoded = encoder((), "int64").encode(rows)
    if dtype == "float64":  # it cannot hold 2**63 - 1 and rounds it up, out of the range
        assert list(encoded.bad) == [0]
    else:
        assert only_tensor(encoded).tolist() == [2**63 - 1, 2**62]
    assert list(encoder((), "int64").encode(np.array([2**63], "uint64")).bad) == [0]


@pytest.mark.parametrize("dtype", [">f8", ">f4", "<f4", "int8"])
def test_other_byte_orders_and_strides(dtype: str) -> None:
    rows = np.arange(12, dtype=dtype).reshape(2, 6)[:, ::2]
    for view in (rows, np.asfortranarray(rows)):
        tensor = only_tensor(encoder((3,)).encode(view))
        assert tensor.tolist() == [[0, 2, 4], [6, 8, 10]]
        assert tensor.dtype.isnative
        assert tensor.flags.c_contiguous


def test_no_rows() -> None:
    encoded = encoder((3,)).encode(np.zeros((0, 3)))
    assert encoded == Encoded([], {})
