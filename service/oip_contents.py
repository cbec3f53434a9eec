"""Elements of a tensor that come in a protobuf field of their type, instead of as raw bytes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from models.errors import InvalidInput
from service.tensors import BYTES, Tensor, brief, checked_shape, dtype_of

FIELDS = {
    "BOOL": "bool_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    BYTES: "bytes_contents",
}
"""Of `InferTensorContents`, by datatype; FP16 has none."""
_WIDE = {"int_contents": np.dtype(np.int32), "uint_contents": np.dtype(np.uint32)}
"""What a field holds, where it is wider than some of its datatypes."""


def from_contents(name: str, datatype: str, shape: tuple[int, ...], contents: Any) -> Tensor:
    """A tensor of the elements in `contents`, an `InferTensorContents`.

    Raises
    ------
    InvalidInput
        When they are in another field, too few or too many, or no numbers of the datatype.
    """
    dtype, sizes = dtype_of(name, datatype), checked_shape(name, shape)
    field = FIELDS.get(datatype)
    if field is None:
        raise InvalidInput(
            f"input {brief(name)}: found {datatype} in contents, expected it in raw_input_contents"
        )
    for other, _ in contents.ListFields():
        if other.name != field:
            raise InvalidInput(
                f"input {brief(name)}: found {other.name}, expected {field} for {datatype}"
            )
    elements = getattr(contents, field)
    if len(elements) != math.prod(sizes):
        raise InvalidInput(
            f"input {brief(name)}: found {len(elements)} elements in {field}, expected "
            f"{math.prod(sizes)} for {datatype} of shape {list(sizes)}"
        )
    if datatype == BYTES:
        array = np.empty(len(elements), object)
        array[:] = list(elements)
    else:
        array = np.fromiter(elements, _WIDE.get(field, dtype), len(elements))
    return Tensor(name, _narrowed(name, datatype, array, dtype).reshape(sizes))


def _narrowed(name: str, datatype: str, array: np.ndarray, dtype: np.dtype) -> np.ndarray:
    narrow = array.astype(dtype, copy=False)
    lost = narrow != array if narrow is not array else np.False_
    if lost.any():
        raise InvalidInput(
            f"input {brief(name)}: found {array[np.argmax(lost)]}, expected a number of {datatype}"
        )
    return narrow
