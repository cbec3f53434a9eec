"""The mix: requests of all doors, policies and sizes, made ready to be sent."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args
from urllib.parse import quote

import numpy as np
from tritonclient.grpc.aio import InferInput

from models.encoding import RawRows
from models.manifest import Manifest
from service.input_tensors import raw_input
from service.options import DEFAULTS, Options

Door = Literal["predict", "predict lines", "OIP JSON", "OIP binary", "gRPC", "gRPC stream"]
DOORS: tuple[Door, ...] = get_args(Door)
SIZES = (1, 1, 1, 1, 2, 3, 4, 8, 16, 32)
DEADLINE_MS = 5000.0
"""Far away: to have one is another way through the engine, to miss it is not meant."""
JSON_DIGITS = 6


@dataclass(frozen=True)
class HttpMessage:
    """A POST."""

    path: str
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True)
class RpcMessage:
    """What tritonclient is given, the arguments of its `infer`."""

    arguments: dict[str, Any]


@dataclass(frozen=True)
class Asked:
    """A request.

    places : int (b,), of its rows in the pool
    """

    door: Door
    places: np.ndarray
    options: Options
    message: HttpMessage | RpcMessage


def make_mix(
    rows: RawRows, manifest: Manifest, count: int, seed: int = 0, deadline_ms: float | None = None
) -> list[Asked]:
    """Requests, door after door in turn.

    Parameters
    ----------
    rows : the pool
    deadline_ms : of every request; by default some have one that is far away
    """
    rng, writer = np.random.default_rng(seed), _Writer(rows, manifest)
    mix = []
    for number in range(count):
        door = DOORS[number % len(DOORS)]
        places = rng.integers(0, len(rows), rng.choice(SIZES))
        options = _options(rng, manifest.depth, door, deadline_ms)
        mix.append(Asked(door, places, options, writer.message(door, places, options)))
    return mix


def _options(
    rng: np.random.Generator, depth: int, door: Door, deadline_ms: float | None
) -> Options:
    exit_number = int(rng.integers(1, depth + 1))
    policy = rng.choice(["certified", "full", f"exit:{exit_number}"], p=[0.7, 0.15, 0.15])
    far = DEADLINE_MS if rng.random() < 0.15 else None
    return Options(
        policy=str(policy),
        max_exit=int(rng.integers(1, depth + 1)) if rng.random() < 0.15 else None,
        deadline_ms=deadline_ms or far,
        priority="batch" if rng.random() < 0.2 else "interactive",
        all_exits=door == "predict" and bool(rng.random() < 0.15),
    )


class _Writer:
    """Writes messages about rows of the pool."""

    def __init__(self, rows: RawRows, manifest: Manifest) -> None:
        self._rows = rows
        self._name = manifest.name
        self._path = f"/v2/models/{quote(manifest.name, safe='')}/infer"
        self._tensor = raw_input(manifest) or manifest.inputs[0].name

    def message(self, door: Door, places: np.ndarray, options: Options) -> HttpMessage | RpcMessage:
        chosen = {
            name: value for name, value in vars(options).items() if value != getattr(DEFAULTS, name)
        }
        taken = [self._rows[place] for place in places]
        if door == "predict" or door == "predict lines":
            fields = {**chosen, **({"stream": True} if door == "predict lines" else {})}
            body = json.dumps({"rows": [_json_row(row) for row in taken], **fields}).encode()
            return HttpMessage("/predict", {"Content-Type": "application/json"}, body)
        array = _array(taken)
        datatype = "FP32" if array.dtype == np.float32 else "BYTES"
        if door in ("gRPC", "gRPC stream"):
            tensor = InferInput(self._tensor, list(array.shape), datatype)
            tensor.set_data_from_numpy(array)
            return self._rpc(tensor, chosen)
        document = {"name": self._tensor, "datatype": datatype, "shape": list(array.shape)}
        if door == "OIP JSON" and not isinstance(taken[0], bytes):
            values = _json_row(array.ravel()) if datatype == "FP32" else taken
            return self._oip_json({**document, "data": values}, chosen)
        return self._oip_binary(document, _raw(array), chosen)

    def _rpc(self, tensor: InferInput, chosen: dict[str, Any]) -> RpcMessage:
        # tritonclient has a number of its own for it, of which 1 is the highest
        urgency = 2 if chosen.pop("priority", "") == "batch" else 1
        named = {"model_name": self._name, "inputs": [tensor]}
        return RpcMessage({**named, "priority": urgency, "parameters": chosen})

    def _oip_json(self, tensor: dict[str, Any], chosen: dict[str, Any]) -> HttpMessage:
        body = json.dumps({"inputs": [tensor], "parameters": chosen}).encode()
        return HttpMessage(self._path, {"Content-Type": "application/json"}, body)

    def _oip_binary(
        self, tensor: dict[str, Any], raw: bytes, chosen: dict[str, Any]
    ) -> HttpMessage:
        tensor = {**tensor, "parameters": {"binary_data_size": len(raw)}}
        parameters = {**chosen, "binary_data_output": True}
        head = json.dumps({"inputs": [tensor], "parameters": parameters}).encode()
        headers = {
            "Content-Type": "application/octet-stream",
            "Inference-Header-Content-Length": str(len(head)),
        }
        return HttpMessage(self._path, headers, head + raw)


def _array(rows: Sequence[Any]) -> np.ndarray:
    """Numbers (b, ...), or texts and files as objects (b,)."""
    if isinstance(rows[0], np.ndarray):
        return np.stack(rows)
    return np.array([row.encode() if isinstance(row, str) else row for row in rows], object)


def _json_row(row: Any) -> Any:
    if isinstance(row, np.ndarray):
        return row.astype(np.float64).round(JSON_DIGITS).tolist()
    return base64.b64encode(row).decode() if isinstance(row, bytes) else row


def _raw(array: np.ndarray) -> bytes:
    if array.dtype == np.float32:
        return array.tobytes()
    return b"".join(len(element).to_bytes(4, "little") + element for element in array)
