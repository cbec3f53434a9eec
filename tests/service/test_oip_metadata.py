from __future__ import annotations

import asyncio

import numpy as np
import pytest

from models.bundle import Bundle
from models.manifest import Manifest
from models.preprocessing import ImagePreprocessing, TensorSpec, TextPreprocessing
from service.dataplane import Dataplane
from service.input_tensors import input_rows
from service.oip_metadata import TensorInfo, input_specs, output_specs, server_version
from service.output_tensors import output_tensors
from service.tensors import BYTES, DATATYPES, Tensor

TEXT = {
    "preprocessing": TextPreprocessing(max_tokens=16),
    "inputs": (
        TensorSpec(name="input_ids", dtype="int64", row_shape=(None,)),
        TensorSpec(name="attention_mask", dtype="int64", row_shape=(None,)),
    ),
}
IMAGE = {
    "preprocessing": ImagePreprocessing(height=8, width=8),
    "inputs": (TensorSpec(name="pixels", dtype="float32", row_shape=(3, 8, 8)),),
}


@pytest.fixture(params=[{}, TEXT, IMAGE], ids=["numbers", "text", "image"])
def manifest(request: pytest.FixtureRequest, bundle: Bundle) -> Manifest:
    return bundle.manifest.model_copy(update=request.param)


def ones(info: TensorInfo) -> Tensor:
    shape = tuple(2 if size == -1 else size for size in info.shape)
    if info.datatype == BYTES:
        return Tensor(info.name, np.full(shape, b"x", object))
    return Tensor(info.name, np.ones(shape, DATATYPES[info.datatype]))


def test_tensors_as_they_are_described_are_taken(manifest: Manifest) -> None:
    specs = input_specs(manifest)
    own = [ones(info) for info in specs if info.datatype != BYTES]
    raw = [ones(info) for info in specs if info.datatype == BYTES]
    for tensors in (own, raw):
        if tensors:
            assert len(input_rows(tensors, manifest)) == 2


def test_what_may_be_left_out_is_optional(bundle: Bundle) -> None:
    (numbers,) = input_specs(bundle.manifest)
    assert not numbers.optional
    texts = input_specs(bundle.manifest.model_copy(update=TEXT))
    assert [(info.name, info.optional) for info in texts] == [
        ("input_ids", True),
        ("attention_mask", True),
        ("text", True),
    ]


def test_outputs_are_described_as_they_come(dataplane: Dataplane, rows: np.ndarray) -> None:
    prediction = asyncio.run(dataplane.predict(rows[:3]))
    tensors = output_tensors(prediction)
    described = output_specs(dataplane.manifest)
    assert [(info.name, info.datatype) for info in described] == [
        (tensor.name, tensor.datatype) for tensor in tensors
    ]
    for info, tensor in zip(described, tensors, strict=True):
        assert info.shape[0] == -1
        assert tensor.shape == (3, *info.shape[1:])


def test_the_version_is_that_of_the_package() -> None:
    assert server_version()[0].isdigit()
