"""The documents of an inference over REST: the request that is read, the response that is written.

A body is JSON, or JSON followed by the raw bytes of tensors, one after the other; a header says how
long the JSON is. See https://github.com/kserve/open-inference-protocol and Triton's extension
`binary_tensor_data`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic_core import to_json

from models.errors import InvalidInput
from service.inference import InferRequest
from service.json_fields import check_fields, field, objects, parse_object
from service.json_values import from_values, to_values
from service.tensors import Tensor, brief, from_raw, to_raw

HEADER_LENGTH = "Inference-Header-Content-Length"
"""The HTTP header with the length of the JSON; without it, all is JSON."""
BINARY_SIZE = "binary_data_size"

_REQUEST = ("id", "inputs", "outputs", "parameters", "model_name", "model_version")
"""KServe's client repeats the model's name, which the path has said."""
_INPUT = ("name", "datatype", "shape", "data", "parameters")
_OUTPUT = ("name", "parameters")
_UNSUPPORTED = {
    "classification": "offramp answers with probabilities, not with classes",
    "shared_memory_region": "offramp shares no memory with its clients",
    "shared_memory_byte_size": "offramp shares no memory with its clients",
    "shared_memory_offset": "offramp shares no memory with its clients",
}


@dataclass(frozen=True)
class RestRequest:
    """What a client asks, and in which form it wants the answer.

    id : given back as it is; None where the client gave none
    binary : whether each of the outputs is wanted as raw bytes, in the order of the request's
    all_binary : whether those are that are not named
    """

    id: str | None
    request: InferRequest
    binary: Sequence[bool]
    all_binary: bool


def parse_request(body: bytes, header_length: str | None) -> RestRequest:
    """Read a request; tensors of raw bytes are views of `body`.

    Parameters
    ----------
    header_length : the header `HEADER_LENGTH`

    Raises
    ------
    InvalidInput
        Says which field is wrong, or which input.
    """
    document, binary = _split(body, header_length)
    check_fields(document, _REQUEST, "request")
    parameters = field(document, "parameters", dict, "request") or {}
    all_binary = field(parameters, "binary_data_output", bool, "request") or False
    inputs = [_input(entry, binary) for entry in objects(document, "inputs", _INPUT, "request")]
    binary.check_used()
    outputs = objects(document, "outputs", _OUTPUT, "request")
    names = [_name(entry, "outputs") for entry in outputs]
    forms = [_wants_binary(entry, all_binary) for entry in outputs]
    identity = field(document, "id", str, "request")
    return RestRequest(identity, InferRequest(inputs, names, parameters), forms, all_binary)


def response_body(
    asked: RestRequest, tensors: Sequence[Tensor], name: str, version: str
) -> tuple[bytes, int | None]:
    """The response's body, and the length of its JSON where raw bytes follow it."""
    outputs: list[dict[str, Any]] = []
    parts: list[bytes] = []
    for place, tensor in enumerate(tensors):
        output: dict[str, Any] = {
            "name": tensor.name,
            "datatype": tensor.datatype,
            "shape": tensor.shape,
        }
        if asked.binary[place] if asked.binary else asked.all_binary:
            parts.append(to_raw(tensor.array))
            output["parameters"] = {BINARY_SIZE: len(parts[-1])}
        else:
            output["data"] = to_values(tensor.array)
        outputs.append(output)
    document: dict[str, Any] = {"model_name": name, "model_version": version, "outputs": outputs}
    if asked.id is not None:
        document["id"] = asked.id
    json = to_json(document)
    return (b"".join([json, *parts]), len(json)) if parts else (json, None)


class _Binary:
    """The raw bytes behind the JSON, which the inputs take in their order."""

    def __init__(self, content: memoryview) -> None:
        self._content = content
        self._place = 0

    def take(self, name: str, size: int) -> memoryview:
        left = len(self._content) - self._place
        if size > left:
            raise InvalidInput(
                f"input {brief(name)}: found {left} bytes of raw data left for it, expected "
                f"{brief(size)}, its {BINARY_SIZE}; check the header {HEADER_LENGTH}"
            )
        self._place += size
        return self._content[self._place - size : self._place]

    def check_used(self) -> None:
        left = len(self._content) - self._place
        if left:
            raise InvalidInput(
                f"body: found {left} bytes behind the last input, expected none; check each "
                f"{BINARY_SIZE} and the header {HEADER_LENGTH}"
            )


def _split(body: bytes, header_length: str | None) -> tuple[dict[str, Any], _Binary]:
    """The JSON document, and what is behind it."""
    length = len(body)
    if header_length is not None:
        if not (header_length.isascii() and header_length.isdecimal()):
            raise InvalidInput(
                f"header {HEADER_LENGTH}: found {brief(header_length)}, expected a whole number"
            )
        length = int(header_length[:19])
        if not 0 < length <= len(body):
            raise InvalidInput(
                f"header {HEADER_LENGTH}: found {length}, expected 1 to {len(body)}, the bytes of "
                "the body"
            )
    return parse_object(body[:length]), _Binary(memoryview(body)[length:])


def _input(entry: dict[str, Any], binary: _Binary) -> Tensor:
    """A tensor of the request, from JSON or from raw bytes."""
    name = _name(entry, "inputs")
    where = f"input {brief(name)}"
    parameters = field(entry, "parameters", dict, where) or {}
    _check_parameters(where, parameters, BINARY_SIZE)
    size = field(parameters, BINARY_SIZE, int, where)
    datatype, shape, data = entry.get("datatype"), entry.get("shape"), entry.get("data")
    if size is None:
        return from_values(name, datatype, shape, data)
    if data is not None:
        raise InvalidInput(f"{where}: found both data and {BINARY_SIZE}, expected one of them")
    if size < 0:
        raise InvalidInput(f"{where}: found {BINARY_SIZE} {brief(size)}, expected at least 0")
    return from_raw(name, datatype, shape, binary.take(name, size))


def _wants_binary(entry: dict[str, Any], otherwise: bool) -> bool:
    where = f"output {brief(entry['name'])}"
    parameters = field(entry, "parameters", dict, where) or {}
    _check_parameters(where, parameters, "binary_data")
    wanted: bool | None = field(parameters, "binary_data", bool, where)
    return otherwise if wanted is None else wanted


def _name(entry: Mapping[str, Any], key: str) -> str:
    name: str | None = field(entry, "name", str, key)
    if name is None:
        raise InvalidInput(f"{key}: found one without a name, expected each with its name")
    return name


def _check_parameters(where: str, parameters: Mapping[str, Any], known: str) -> None:
    for key in parameters:
        if key in _UNSUPPORTED:
            raise InvalidInput(f"{where}: found the parameter {key!r}: {_UNSUPPORTED[key]}")
        if key != known:
            raise InvalidInput(
                f"{where}: found the unknown parameter {brief(key)}, expected {known!r}, or none"
            )
