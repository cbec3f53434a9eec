"""Inference requests and answers as protobuf messages of the Open Inference Protocol."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tritonclient.grpc import service_pb2 as pb

from models.errors import InvalidInput
from service.inference import InferRequest, Parameters
from service.oip_contents import from_contents
from service.tensors import Tensor, brief, from_raw, to_raw

MOST = 1024
"""Inputs, outputs or parameters of one request: a message has room for millions of empty ones."""
UNANSWERABLE = ("classification", "shared_memory_region")
"""Parameters of tensors: extensions of the protocol that would change what they mean."""


def read_request(message: Any) -> InferRequest:
    """The request in a `ModelInferRequest`; numbers are views of the message's raw bytes.

    Raises
    ------
    InvalidInput
        Names the input, output or parameter that is no good.
    """
    for kind in ("inputs", "outputs", "parameters"):
        if len(getattr(message, kind)) > MOST:
            found = len(getattr(message, kind))
            raise InvalidInput(f"{kind}: found {found}, expected at most {MOST}")
    for tensor in (*message.inputs, *message.outputs):
        _check_parameters(tensor)
    return InferRequest(
        _inputs(message),
        [output.name for output in message.outputs],
        {name: value_of(name, value) for name, value in message.parameters.items()},
    )


def write_response(
    request: Any, version: str, tensors: Sequence[Tensor], parameters: Parameters | None = None
) -> Any:
    """The `ModelInferResponse` to a `ModelInferRequest`, with raw bytes.

    Parameters
    ----------
    version : of the model that answered
    """
    response = pb.ModelInferResponse(
        model_name=request.model_name,
        model_version=version,
        id=request.id,
        outputs=[
            pb.ModelInferResponse.InferOutputTensor(
                name=tensor.name, datatype=tensor.datatype, shape=tensor.shape
            )
            for tensor in tensors
        ],
        raw_output_contents=[to_raw(tensor.array) for tensor in tensors],
    )
    for name, value in (parameters or {}).items():
        response.parameters[name].bool_param = bool(value)
    return response


def value_of(name: str, parameter: Any) -> bool | int | float | str:
    """What an `InferParameter` holds; InvalidInput where it holds nothing."""
    choice = parameter.WhichOneof("parameter_choice")
    if choice is None:
        raise InvalidInput(f"parameters: {brief(name)} has no value, expected one")
    value: bool | int | float | str = getattr(parameter, choice)
    return value


def _check_parameters(tensor: Any) -> None:
    for name in UNANSWERABLE:
        if name in tensor.parameters:
            raise InvalidInput(
                f"tensor {brief(tensor.name)}: found the parameter {name!r}, which this server "
                "does not know; expected none such"
            )


def _inputs(message: Any) -> list[Tensor]:
    raw = message.raw_input_contents
    if not raw:
        return [
            from_contents(tensor.name, tensor.datatype, tuple(tensor.shape), tensor.contents)
            for tensor in message.inputs
        ]
    for tensor in message.inputs:
        if tensor.HasField("contents"):
            raise InvalidInput(
                f"input {brief(tensor.name)}: found contents beside raw_input_contents, expected "
                "all inputs in one of them"
            )
    if len(raw) != len(message.inputs):
        raise InvalidInput(
            f"raw_input_contents: found {len(raw)}, expected one for each of "
            f"{len(message.inputs)} inputs"
        )
    return [
        from_raw(tensor.name, tensor.datatype, tuple(tensor.shape), content)
        for tensor, content in zip(message.inputs, raw, strict=True)
    ]
