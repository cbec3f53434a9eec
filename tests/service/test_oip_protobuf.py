from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from tritonclient.grpc import service_pb2 as pb

from models.errors import InvalidInput
from service.oip_contents import FIELDS
from service.oip_protobuf import MOST, read_request, write_response
from service.tensors import BYTES, DATATYPES, Tensor

SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5)
INPUT = pb.ModelInferRequest.InferInputTensor


def arrays(datatype: str) -> st.SearchStrategy[np.ndarray]:
    if datatype == BYTES:
        return hnp.arrays(object, SHAPES, elements=st.binary(max_size=20), fill=st.nothing())
    return hnp.arrays(DATATYPES[datatype], SHAPES)


TENSORS = st.sampled_from(sorted(DATATYPES)).flatmap(arrays)


def same(one: np.ndarray, other: np.ndarray) -> None:
    assert one.dtype == other.dtype
    assert one.shape == other.shape
    np.testing.assert_array_equal(one, other)


def raw_message(array: np.ndarray, name: str = "x") -> Any:
    tensor = triton.InferInput(name, array.shape, Tensor(name, array).datatype)
    tensor.set_data_from_numpy(array)
    return pb.ModelInferRequest(
        inputs=[tensor._get_tensor()], raw_input_contents=[tensor._get_content()]
    )


def typed_message(array: np.ndarray, name: str = "x") -> Any:
    datatype = Tensor(name, array).datatype
    contents = pb.InferTensorContents(**{FIELDS[datatype]: array.ravel().tolist()})
    tensor = INPUT(name=name, datatype=datatype, shape=array.shape, contents=contents)
    return pb.ModelInferRequest(inputs=[tensor])


@given(TENSORS)
def test_what_tritonclient_encodes_is_read_as_it_was(array: np.ndarray) -> None:
    (tensor,) = read_request(raw_message(array)).inputs
    assert tensor.name == "x"
    same(tensor.array, array)


@given(st.sampled_from(sorted(FIELDS)).flatmap(arrays))
def test_typed_contents_are_read_as_they_were(array: np.ndarray) -> None:
    (tensor,) = read_request(typed_message(array)).inputs
    same(tensor.array, array)


@given(st.lists(TENSORS, max_size=4))
def test_what_is_answered_tritonclient_decodes_as_it_was(found: list[np.ndarray]) -> None:
    tensors = [Tensor(f"y{place}", array) for place, array in enumerate(found)]
    request = pb.ModelInferRequest(model_name="m", id="7")
    response = write_response(request, "v1", tensors)
    assert (response.model_name, response.model_version, response.id) == ("m", "v1", "7")
    result = triton.InferResult(response)
    for tensor in tensors:
        same(result.as_numpy(tensor.name), tensor.array)


def test_numbers_are_not_copied() -> None:
    message = raw_message(np.arange(12.0))
    (tensor,) = read_request(message).inputs
    base = tensor.array
    while isinstance(base, np.ndarray):
        base = base.base
    assert isinstance(base, bytes)


def test_outputs_and_parameters_are_read() -> None:
    message = pb.ModelInferRequest(outputs=[{"name": "exit"}, {"name": "labels"}])
    values: dict[str, tuple[str, bool | int | float | str]] = {
        "a": ("bool_param", True),
        "b": ("int64_param", -(2**63)),
        "c": ("uint64_param", 2**64 - 1),
        "d": ("double_param", 0.5),
        "e": ("string_param", ""),
    }
    for name, (field, value) in values.items():
        setattr(message.parameters[name], field, value)
    request = read_request(message)
    assert request.outputs == ["exit", "labels"]
    assert request.parameters == {name: value for name, (_, value) in values.items()}


def both() -> Any:
    message = typed_message(np.ones(2, np.float32), "one")
    message.raw_input_contents.append(bytes(8))
    return message


def typed(datatype: str, shape: list[int], **contents: list[Any]) -> Any:
    tensor = INPUT(
        name="one", datatype=datatype, shape=shape, contents=pb.InferTensorContents(**contents)
    )
    return pb.ModelInferRequest(inputs=[tensor])


def with_parameter(kind: str, name: str) -> Any:
    message = pb.ModelInferRequest(inputs=[{"name": "one"}], outputs=[{"name": "two"}])
    getattr(message, kind)[0].parameters[name].int64_param = 3
    return message


def two_raw_for_one() -> Any:
    message = raw_message(np.ones(2), "one")
    message.raw_input_contents.append(b"")
    return message


def no_value() -> Any:
    message = pb.ModelInferRequest()
    message.parameters["policy"].SetInParent()
    return message


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (both(), "'one'.*contents beside raw_input_contents"),
        (two_raw_for_one(), "raw_input_contents: found 2, expected one for each of 1 inputs"),
        (typed("FP32", [3], fp32_contents=[1, 2]), "'one'.*found 2 elements.*expected 3"),
        (typed("FP32", [2], fp64_contents=[1, 2]), "'one'.*found fp64_contents.*fp32_contents"),
        (typed("FP32", [1], fp32_contents=[1], int_contents=[1]), "'one'.*found int_contents"),
        (typed("FP16", [1], fp32_contents=[1]), "'one'.*FP16 in contents.*raw_input_contents"),
        (typed("BF16", [1], fp32_contents=[1]), "'one'.*datatype 'BF16'.*expected one of"),
        (typed("", [1]), "'one'.*datatype ''"),
        (typed("FP32", [-1], fp32_contents=[1]), "'one'.*shape"),
        (typed("FP32", [2**30]), "'one'.*found 0 elements"),
        (typed("INT8", [2], int_contents=[1, 300]), "'one'.*found 300.*INT8"),
        (typed("UINT16", [1], uint_contents=[2**16]), "'one'.*found 65536.*UINT16"),
        (typed(BYTES, [2], bytes_contents=[b"a"]), "'one'.*found 1 elements"),
        (with_parameter("outputs", "classification"), "'two'.*'classification'"),
        (with_parameter("outputs", "shared_memory_region"), "'two'.*'shared_memory_region'"),
        (with_parameter("inputs", "shared_memory_region"), "'one'.*'shared_memory_region'"),
        (no_value(), "'policy' has no value"),
        (pb.ModelInferRequest(inputs=[{}] * (MOST + 1)), f"inputs: found {MOST + 1}"),
        (pb.ModelInferRequest(outputs=[{}] * (MOST + 1)), f"outputs: found {MOST + 1}"),
    ],
)
def test_what_cannot_be_read_is_refused_by_name(message: Any, words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        read_request(message)
