"""Named tensors as the Open Inference Protocol carries them, and their raw bytes.

Datatypes are the protocol's: https://github.com/kserve/open-inference-protocol. Raw bytes are
little-endian, in row-major order; every element of BYTES has its length, 4 bytes, before it.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from models.errors import InvalidInput

BYTES = "BYTES"
LENGTH = np.dtype("<u4")
DATATYPES = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype("<u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("<i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
    BYTES: np.dtype(object),
}
"""BYTES is an array of `bytes`."""
_NAMES = {dtype: name for name, dtype in DATATYPES.items()}
_MAX_ELEMENTS = 2**16  # of BYTES
_MAX_DIMENSIONS = 8
_MAX_SIZE = 2**40
"""Product of all sizes that are not 0: NumPy makes no larger array, not even an empty one."""


@dataclass(frozen=True)
class Tensor:
    """An array with a name; its dtype is one of `DATATYPES`."""

    name: str
    array: np.ndarray

    @property
    def datatype(self) -> str:
        """The protocol's word for the array's dtype."""
        return _NAMES[self.array.dtype]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the array."""
        return self.array.shape


def datatype_of(dtype: str) -> str:
    """The protocol's word for a NumPy dtype, e.g. FP32 for float32."""
    return _NAMES[np.dtype(dtype)]


def dtype_of(name: str, datatype: object) -> np.dtype:
    """The NumPy dtype for the protocol's word; InvalidInput names the tensor."""
    dtype = DATATYPES.get(datatype) if isinstance(datatype, str) else None
    if dtype is None:
        raise InvalidInput(
            f"input {brief(name)}: found datatype {brief(datatype)}, expected one of "
            f"{', '.join(DATATYPES)}"
        )
    return dtype


def checked_shape(name: str, shape: object) -> tuple[int, ...]:
    """A shape of whole numbers from 0 on; InvalidInput names the tensor."""
    if isinstance(shape, Sequence) and len(shape) <= _MAX_DIMENSIONS:
        sizes = tuple(shape)
        whole = all(type(size) is int and size >= 0 for size in sizes)
        if whole and math.prod(size or 1 for size in sizes) <= _MAX_SIZE:
            return sizes
    raise InvalidInput(
        f"input {brief(name)}: found shape {brief(shape)}, expected at most "
        f"{_MAX_DIMENSIONS} whole numbers of at least 0, for at most {_MAX_SIZE} elements"
    )


def from_raw(name: str, datatype: object, shape: object, content: bytes | memoryview) -> Tensor:
    """A tensor over raw bytes, without a copy unless it is BYTES, BOOL or lies unaligned.

    Raises
    ------
    InvalidInput
        When the bytes are not those of such a tensor.
    """
    dtype, sizes = dtype_of(name, datatype), checked_shape(name, shape)
    elements = math.prod(sizes)
    if datatype == BYTES:
        # a body has room for millions of empty elements: no more are read than can be rows
        most = min(elements, _MAX_ELEMENTS)
        found = list(islice(_elements(name, memoryview(content)), most + 1))
        if len(found) != elements:
            count = f"{len(found)}" if len(found) <= most else f"over {most}"
            raise _wrong_size(name, datatype, sizes, f"{count} elements", f"{elements}")
        array = np.empty(elements, object)
        array[:] = found
        return Tensor(name, array.reshape(sizes))
    expected = elements * dtype.itemsize
    if len(content) != expected:
        raise _wrong_size(name, datatype, sizes, f"{len(content)} bytes", f"{expected}")
    if datatype == "BOOL":  # any byte but 0 is true; NumPy computes wrongly with others than 1
        return Tensor(name, (np.frombuffer(content, np.uint8) != 0).reshape(sizes))
    # behind a JSON header numbers lie anywhere: NumPy is slower then than with one copy
    array = np.require(np.frombuffer(content, dtype), requirements="A")
    return Tensor(name, array.reshape(sizes))


def to_raw(array: np.ndarray) -> bytes:
    """The raw bytes of a tensor's array."""
    if array.dtype != object:
        return array.tobytes()
    parts = (len(element).to_bytes(4, "little") + element for element in array.ravel().tolist())
    return b"".join(parts)


def _elements(name: str, content: memoryview) -> Iterator[bytes]:
    """The elements of a BYTES tensor; InvalidInput where a length leads past the end."""
    place = 0
    while place < len(content):
        start = place + LENGTH.itemsize
        length = int.from_bytes(content[place:start], "little")
        if start > len(content) or start + length > len(content):
            raise InvalidInput(
                f"input {brief(name)}: found an element of BYTES at byte {place} that ends past "
                f"the tensor's {len(content)} bytes, expected 4 bytes of its length, and then as "
                "many"
            )
        yield bytes(content[start : start + length])
        place = start + length


def _wrong_size(
    name: str, datatype: object, shape: tuple[int, ...], found: str, expected: str
) -> InvalidInput:
    return InvalidInput(
        f"input {brief(name)}: found {found}, expected {expected} for {datatype} of shape "
        f"{list(shape)}"
    )


def brief(value: object) -> str:
    """A client's value in an error message: never more than a few words of it."""
    text = reprlib.repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
