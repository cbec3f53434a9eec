"""Tensors as lists of JSON values: nested by their shape, or flat in row-major order.

Nothing is cast silently: a text is no number, 1.5 no INT64, and true only a BOOL.
"""

from __future__ import annotations

import math
from itertools import chain
from typing import Any

import numpy as np

from models.errors import InvalidInput
from service.tensors import BYTES, Tensor, brief, checked_shape, dtype_of

_TYPES: dict[str, frozenset[type]] = {
    "f": frozenset({float, int}),
    "i": frozenset({int}),
    "u": frozenset({int}),
    "b": frozenset({bool}),
    "O": frozenset({str}),
}
"""By the kind of the dtype: what JSON's values may be."""
_WORDS = {"f": "numbers", "i": "whole numbers", "u": "whole numbers", "b": "true or false"}


def from_values(name: str, datatype: object, shape: object, data: object) -> Tensor:
    """The tensor that a JSON document writes out.

    Parameters
    ----------
    data : as the document's parser gives it

    Raises
    ------
    InvalidInput
        When values are not of the datatype, not finite, out of range, or not as many as the shape.
    """
    dtype, sizes = dtype_of(name, datatype), checked_shape(name, shape)
    if datatype == "FP16":
        raise InvalidInput(
            f"input {brief(name)}: found FP16 in JSON, expected it as binary data, or FP32"
        )
    values = _flat(name, sizes, data)
    if not _TYPES[dtype.kind].issuperset(map(type, values)):
        raise _wrong_value(name, str(datatype), dtype, values)
    return Tensor(name, _array(name, str(datatype), dtype, values).reshape(sizes))


def to_values(array: np.ndarray) -> list[Any]:
    """All elements in row-major order, as a writer of JSON takes them."""
    values: list[Any] = array.ravel().tolist()
    return values


def _flat(name: str, shape: tuple[int, ...], data: object) -> list[Any]:
    """The values of `data`, whether it is nested as `shape` or flat."""
    elements = math.prod(shape)
    if not isinstance(data, list):
        raise InvalidInput(f"input {brief(name)}: found data {brief(data)}, expected a list")
    if len(data) == elements and not (data and isinstance(data[0], list)):
        return data
    level: list[Any] = [data]
    for size in shape:
        if not all(type(item) is list and len(item) == size for item in level):
            raise InvalidInput(
                f"input {brief(name)}: found a list of {len(data)} as its data, which does not "
                f"fit: expected {elements} values, or lists nested as {list(shape)}"
            )
        level = list(chain.from_iterable(level))
    return level


def _array(name: str, datatype: str, dtype: np.dtype, values: list[Any]) -> np.ndarray:
    """Values of the right types as an array (n,)."""
    if datatype == BYTES:
        array = np.empty(len(values), object)
        array[:] = [value.encode() for value in values]
        return array
    try:
        with np.errstate(over="ignore"):  # what overflows is refused as not finite
            array = np.array(values, np.float64 if dtype.kind == "f" else dtype).astype(dtype)
    except OverflowError:
        raise _wrong_value(name, datatype, dtype, values) from None
    if dtype.kind == "f" and not np.isfinite(array).all():
        raise _wrong_value(name, datatype, dtype, values)
    return array


def _wrong_value(name: str, datatype: str, dtype: np.dtype, values: list[Any]) -> InvalidInput:
    """Names the first value that is none of the datatype."""
    place, value = next(
        (place, value) for place, value in enumerate(values) if not _holds(dtype, value)
    )
    expected = _WORDS.get(dtype.kind, "texts")
    return InvalidInput(
        f"input {brief(name)}: found {brief(value)} at place {place} of its data, expected "
        f"{expected} that {datatype} can hold"
    )


def _holds(dtype: np.dtype, value: Any) -> bool:
    if type(value) not in _TYPES[dtype.kind]:
        return False
    if dtype.kind == "f":
        return bool(abs(value) <= float(np.finfo(dtype).max))
    if dtype.kind in "iu":
        return bool(np.iinfo(dtype).min <= value <= np.iinfo(dtype).max)
    return True
