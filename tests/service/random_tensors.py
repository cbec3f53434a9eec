"""Hypothesis strategies for tensors of the Open Inference Protocol."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import strategies as st

from service.tensors import BYTES, DATATYPES, Tensor

shapes = st.lists(st.integers(0, 4), max_size=4).map(tuple)
names = st.text(min_size=1, max_size=8)


@st.composite
def tensors(draw: st.DrawFn, datatypes: tuple[str, ...] = tuple(DATATYPES)) -> Tensor:
    """Any tensor, any values of its datatype; floats are finite, BYTES are UTF-8."""
    datatype, shape = draw(st.sampled_from(datatypes)), draw(shapes)
    count = math.prod(shape)
    array = np.empty(count, DATATYPES[datatype])
    array[:] = draw(st.lists(_elements(datatype), min_size=count, max_size=count))
    return Tensor(draw(names), array.reshape(shape))


def _elements(datatype: str) -> st.SearchStrategy:
    if datatype == BYTES:
        return st.text(max_size=6).map(str.encode)
    dtype = DATATYPES[datatype]
    if dtype.kind == "b":
        return st.booleans()
    if dtype.kind == "f":
        return st.floats(width=8 * dtype.itemsize, allow_nan=False, allow_infinity=False)
    bounds = np.iinfo(dtype)
    return st.integers(int(bounds.min), int(bounds.max))


def assert_same(found: Tensor, expected: Tensor) -> None:
    """Of the same name, datatype and shape, with the same elements."""
    assert found.name == expected.name
    assert found.datatype == expected.datatype
    assert found.shape == expected.shape
    assert found.array.tolist() == expected.array.tolist()
