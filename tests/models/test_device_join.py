from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx.helper import np_dtype_to_tensor_dtype

from models.device_join import MOST_PIECES, DeviceJoin
from models.device_session import Device

DTYPES = (np.float32, np.float16, np.int64, np.bool_)

sizes = st.lists(st.integers(1, 5), min_size=1, max_size=3 * MOST_PIECES)


@pytest.fixture(scope="module")
def device() -> Device:
    return Device("cpu")


@pytest.fixture(scope="module")
def join(device: Device) -> DeviceJoin:
    """For carries with one tensor of every type."""
    return DeviceJoin([np_dtype_to_tensor_dtype(np.dtype(dtype)) for dtype in DTYPES], device)


def some_tensors(rng: np.random.Generator, rows: int) -> list[np.ndarray]:
    return [rng.integers(-9, 9, (rows, 3, 2)[:rank]).astype(dtype) for dtype, rank in TENSORS]


TENSORS = tuple(zip(DTYPES, (3, 2, 2, 1), strict=True))


@settings(deadline=None, max_examples=60)
@given(sizes=sizes, seed=st.integers(0, 2**32 - 1))
def test_rows_of_all_pieces_are_joined_in_their_order(
    join: DeviceJoin, device: Device, sizes: list[int], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    carries = [some_tensors(rng, size) for size in sizes]
    places = [rng.integers(0, size, rng.integers(1, 6)) for size in sizes]
    joined = join.join(
        [
            (tuple(map(device.put, tensors)), rows)
            for tensors, rows in zip(carries, places, strict=True)
        ]
    )
    for place, value in enumerate(joined):
        taken = [tensors[place][rows] for tensors, rows in zip(carries, places, strict=True)]
        np.testing.assert_array_equal(value.numpy(), np.concatenate(taken))
        assert value.numpy().dtype == DTYPES[place]


def test_places_may_be_of_any_integer_type(join: DeviceJoin, device: Device) -> None:
    tensors = some_tensors(np.random.default_rng(0), 4)
    part = (tuple(map(device.put, tensors)), np.array([3, 1], np.int32))
    np.testing.assert_array_equal(join.join([part])[0].numpy(), tensors[0][[3, 1]])
