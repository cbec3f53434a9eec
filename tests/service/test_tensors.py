from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.utils import deserialize_bytes_tensor, serialize_byte_tensor

from models.errors import InvalidInput
from service.tensors import (
    BYTES,
    DATATYPES,
    Tensor,
    brief,
    checked_shape,
    datatype_of,
    dtype_of,
    from_raw,
    to_raw,
)
from tests.service.random_tensors import assert_same, tensors

NUMBERS = tuple(datatype for datatype in DATATYPES if datatype not in (BYTES, "BOOL"))


@given(tensors())
def test_raw_bytes_become_the_tensor_that_they_were(tensor: Tensor) -> None:
    raw = to_raw(tensor.array)
    assert_same(from_raw(tensor.name, tensor.datatype, tensor.shape, raw), tensor)


@given(tensors((BYTES,)))
def test_bytes_are_written_as_tritons_client_writes_them(tensor: Tensor) -> None:
    raw = to_raw(tensor.array)
    expected = serialize_byte_tensor(tensor.array)
    assert raw == (expected.item() if tensor.array.size else b"")
    assert deserialize_bytes_tensor(raw).tolist() == tensor.array.ravel().tolist()


@given(tensors(NUMBERS), st.integers(0, 7))
def test_numbers_may_lie_anywhere_in_a_body(tensor: Tensor, offset: int) -> None:
    body = memoryview(b"." * offset + to_raw(tensor.array))
    read = from_raw(tensor.name, tensor.datatype, tensor.shape, body[offset:])
    assert_same(read, tensor)
    assert read.array.flags.aligned


def test_aligned_numbers_are_not_copied() -> None:
    content = np.arange(6, dtype=np.float32).tobytes()
    array = from_raw("x", "FP32", [2, 3], content).array
    assert np.shares_memory(array, np.frombuffer(content, np.uint8))


def test_any_byte_but_zero_is_true() -> None:
    array = from_raw("x", "BOOL", [4], bytes([0, 1, 2, 255])).array
    assert array.view(np.uint8).tolist() == [0, 1, 1, 1]


@given(tensors(), st.integers(-9, 9).filter(bool))
def test_too_few_or_too_many_bytes_are_refused_with_the_name(tensor: Tensor, change: int) -> None:
    raw = to_raw(tensor.array)
    cut = raw[:change] if change < 0 else raw + b"\x01" * change
    if cut == raw:  # there was nothing to cut
        return
    with pytest.raises(InvalidInput) as refusal:
        from_raw(tensor.name, tensor.datatype, tensor.shape, cut)
    assert brief(tensor.name) in str(refusal.value)


any_datatype = st.sampled_from([*DATATYPES, "BF16", "fp32", "", None, 3, []])
any_shape = st.lists(st.integers(-1, 2**64) | st.integers(0, 3), max_size=10) | st.none()


@given(any_datatype, any_shape, st.binary(max_size=80))
def test_whatever_is_sent_is_a_tensor_of_that_shape_or_refused(
    datatype: Any, shape: Any, content: bytes
) -> None:
    try:
        tensor = from_raw("x", datatype, shape, content)
    except InvalidInput:
        return
    assert tensor.datatype == datatype
    assert list(tensor.shape) == shape
    assert len(to_raw(tensor.array)) == len(content)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\x05\x00\x00\x00ab", ["at byte 0", "6 bytes"]),
        (b"\x01\x00\x00\x00a\xff\xff\xff\xff", ["at byte 5", "9 bytes"]),
        (b"\x01\x00", ["at byte 0", "2 bytes"]),
        (b"\x01\x00\x00\x00a", ["found 1 elements", "expected 2"]),
        (b"\x00\x00\x00\x00" * 3, ["found over 2 elements", "expected 2"]),
    ],
)
def test_bytes_with_false_lengths_are_refused(content: bytes, words: list[str]) -> None:
    with pytest.raises(InvalidInput) as refusal:
        from_raw("x", BYTES, [2], content)
    assert all(word in str(refusal.value) for word in ["input 'x'", *words])


@pytest.mark.parametrize(
    "shape",
    [None, 3, "12", [1.0], [True], [-1], [None], [[1]], [2**63], [0, 2**62], [2**30] * 3, [1] * 9],
)
def test_what_is_no_shape_is_refused(shape: Any) -> None:
    with pytest.raises(InvalidInput, match="input 'x': found shape"):
        checked_shape("x", shape)


@given(st.lists(st.integers(0, 2**20), max_size=8))
def test_an_empty_array_can_be_made_of_every_shape_that_is_taken(shape: list[int]) -> None:
    try:
        sizes = checked_shape("x", shape)
    except InvalidInput:
        assert math.prod(size or 1 for size in shape) > 2**40
    else:
        np.empty(0, np.float64).reshape(*sizes[1:], 0)


def test_datatypes_are_named_as_the_protocol_does() -> None:
    assert datatype_of("float32") == "FP32"
    assert dtype_of("x", "INT64") == np.int64
    with pytest.raises(InvalidInput, match="input 'x': found datatype 'BF16', expected one of"):
        dtype_of("x", "BF16")


@given(st.recursive(st.integers() | st.text(), lambda inner: st.lists(inner)))
def test_what_a_client_sent_is_quoted_in_a_few_words(value: Any) -> None:
    assert len(brief(value)) <= 40


@pytest.mark.parametrize(
    ("elements", "words"),
    [(2, "found over 2 elements, expected 2"), (10**6, "found over 65536 elements")],
)
def test_no_more_elements_are_read_than_can_be_rows(elements: int, words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        from_raw("x", BYTES, [elements], bytes(4 * 10**6))
