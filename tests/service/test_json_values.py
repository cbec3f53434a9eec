from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic_core import from_json, to_json

from models.errors import InvalidInput
from service.json_values import from_values, to_values
from service.tensors import DATATYPES, Tensor
from tests.service.random_tensors import assert_same, tensors

IN_JSON = tuple(datatype for datatype in DATATYPES if datatype != "FP16")


@given(tensors(IN_JSON))
def test_written_out_and_read_again_a_tensor_is_the_same(tensor: Tensor) -> None:
    values = from_json(to_json(to_values(tensor.array)))
    assert_same(from_values(tensor.name, tensor.datatype, tensor.shape, values), tensor)


@given(tensors(IN_JSON))
def test_nested_lists_are_read_like_a_flat_one(tensor: Tensor) -> None:
    nested = from_json(to_json(np.vectorize(_plain, otypes=[object])(tensor.array).tolist()))
    nested = nested if tensor.shape else [nested]
    assert_same(from_values(tensor.name, tensor.datatype, tensor.shape, nested), tensor)


def _plain(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else getattr(value, "item", lambda: value)()


@pytest.mark.parametrize(
    ("datatype", "data", "place", "expected"),
    [
        ("FP32", [0.5, "1"], 1, "numbers that FP32 can hold"),
        ("FP32", [True, 0.5], 0, "numbers that FP32 can hold"),
        ("FP32", [0.5, None], 1, "numbers that FP32 can hold"),
        ("FP32", [0.5, {}], 1, "numbers that FP32 can hold"),
        ("FP32", [0.5, [0.5]], 1, "numbers that FP32 can hold"),
        ("FP32", [0.5, 1e39], 1, "numbers that FP32 can hold"),
        ("FP32", [0, 10**40], 1, "numbers that FP32 can hold"),
        ("FP64", [0, 10**400], 1, "numbers that FP64 can hold"),
        ("FP64", [math.inf, 0], 0, "numbers that FP64 can hold"),
        ("INT64", [1, 1.5], 1, "whole numbers that INT64 can hold"),
        ("INT64", [1, 2.0], 1, "whole numbers that INT64 can hold"),
        ("INT64", [True, 1], 0, "whole numbers that INT64 can hold"),
        ("INT64", [0, 2**63], 1, "whole numbers that INT64 can hold"),
        ("INT8", [127, 128], 1, "whole numbers that INT8 can hold"),
        ("INT8", [-128, -129], 1, "whole numbers that INT8 can hold"),
        ("UINT8", [255, -1], 1, "whole numbers that UINT8 can hold"),
        ("UINT64", [2**64 - 1, 2**64], 1, "whole numbers that UINT64 can hold"),
        ("BOOL", [True, 1], 1, "true or false that BOOL can hold"),
        ("BOOL", ["true", True], 0, "true or false that BOOL can hold"),
        ("BYTES", ["a", 1], 1, "texts that BYTES can hold"),
    ],
)
def test_no_value_is_cast_silently(
    datatype: str, data: list[Any], place: int, expected: str
) -> None:
    with pytest.raises(InvalidInput) as refusal:
        from_values("x", datatype, [2], data)
    assert f"at place {place} of its data, expected {expected}" in str(refusal.value)
    assert str(refusal.value).startswith("input 'x': found ")


def test_the_largest_numbers_are_taken() -> None:
    largest = float(np.finfo(np.float32).max)
    assert from_values("x", "FP32", [2], [largest, -largest]).array.tolist() == [largest, -largest]


@pytest.mark.parametrize(
    ("shape", "data"),
    [
        ([2], [1]),
        ([2], [1, 2, 3]),
        ([2], []),
        ([0], [1]),
        ([], []),
        ([2, 2], [[1, 2], [3]]),
        ([2, 2], [[1, 2], 3]),
        ([2, 2], [[1, 2, 3, 4]]),
        ([2, 2], [[[1], [2]], [[3], [4]]]),
        ([4], [[1, 2], [3, 4]]),
        ([2**20, 2**20], [[1], [2]]),
    ],
)
def test_values_that_do_not_fit_the_shape_are_refused(shape: list[int], data: list[Any]) -> None:
    with pytest.raises(InvalidInput, match="input 'x': found"):
        from_values("x", "INT32", shape, data)


@pytest.mark.parametrize("data", [None, 3, "12", {"0": 1}, True])
def test_data_is_a_list(data: Any) -> None:
    with pytest.raises(InvalidInput, match=r"input 'x': found data .* expected a list"):
        from_values("x", "INT32", [1], data)


def test_half_precision_comes_as_raw_bytes_only() -> None:
    with pytest.raises(InvalidInput, match="FP16 in JSON, expected it as binary data"):
        from_values("x", "FP16", [1], [0.5])


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=10,
)


@given(st.sampled_from(IN_JSON), st.lists(st.integers(0, 3), max_size=4), json_values)
def test_whatever_is_sent_is_a_tensor_of_that_shape_or_refused(
    datatype: str, shape: list[int], data: Any
) -> None:
    try:
        tensor = from_values("x", datatype, shape, data)
    except InvalidInput:
        return
    assert (tensor.datatype, list(tensor.shape)) == (datatype, shape)
    if tensor.array.dtype.kind == "f":
        assert np.isfinite(tensor.array).all()
