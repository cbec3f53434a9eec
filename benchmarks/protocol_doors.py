"""The doors that are measured: what is sent to which server, prepared once."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from protocol_bundle import INPUT
from protocol_clients import Call, GrpcCall, HttpCall
from protocol_servers import Server

OURS, BENTOML = "offramp", "BentoML"
ANSWER = "probabilities"
"""The one tensor that is asked for."""

ROW_SHAPES = {"small": (16,), "large": (3, 224, 224)}
"""By the model's name; a large row has 602,112 bytes."""

DIGITS = 3  # behind the point

JSON = {"Content-Type": "application/json"}
BYTES = {"Content-Type": "application/octet-stream"}

Connect = Callable[[Server], Call]


@dataclass(frozen=True)
class Door:
    """One way in.

    name : as in tables
    size : the model, a key of `ROW_SHAPES`
    ours, mlserver, bentoml : connect to a server; None where it has no such door
    """

    name: str
    size: str
    ours: Connect
    mlserver: Connect | None
    bentoml: Connect | None

    def is_of(self, name: str) -> bool:
        """Whether a server has it, by the server's name in tables."""
        return self._connect(name) is not None

    def connect(self, name: str, servers: Mapping[str, Server]) -> Call:
        """A call to one of the servers that have it.

        servers : by their names in tables, but for ours, which is there once for every size
        """
        connect = self._connect(name)
        if connect is None:
            raise ValueError(f"found {name!r}, expected a server with the door {self.name!r}")
        return connect(servers[f"{OURS} {self.size}" if name == OURS else name])

    def _connect(self, name: str) -> Connect | None:
        return {OURS: self.ours, BENTOML: self.bentoml}.get(name, self.mlserver)


def rows_of(size: str) -> np.ndarray:
    """One row, float32 (1, *row_shape), of numbers with few digits, as clients write them."""
    generator = np.random.default_rng(0)
    return generator.normal(size=(1, *ROW_SHAPES[size])).round(DIGITS).astype(np.float32)


def all_doors() -> list[Door]:
    """Every door, small rows first."""
    small, large = rows_of("small"), rows_of("large")
    friendly = partial(_http, "/predict", _json({"rows": _numbers(small)}), JSON)
    oip_json = partial(_http, _path("small"), _json(_infer_document(small)), JSON)
    encoded = partial(_http, _path("large"), _json(_base64_document(large)), JSON)
    upload = partial(_http, "/upload", large.tobytes(), BYTES)
    grpc = {size: partial(_grpc, _infer_message(size)) for size in ROW_SHAPES}
    return [
        Door("REST, JSON, small: /predict", "small", friendly, None, friendly),
        Door("REST, JSON, small: OIP", "small", oip_json, oip_json, friendly),
        Door("REST, binary, 600 KB: OIP", "large", _binary(large), encoded, upload),
        Door("gRPC, small: OIP", "small", grpc["small"], grpc["small"], None),
        Door("gRPC, 600 KB: OIP", "large", grpc["large"], grpc["large"], None),
    ]


def _http(path: str, body: bytes, headers: dict[str, str], server: Server) -> Call:
    return HttpCall(server.http, path, body, headers)


def _grpc(message: bytes, server: Server) -> Call:
    return GrpcCall(server.grpc, message)


def _path(model: str) -> str:
    return f"/v2/models/{model}/infer"


def _json(document: Any) -> bytes:
    return json.dumps(document).encode()


def _numbers(rows: np.ndarray) -> Any:
    """Nested lists; rounded again, so that 0.1 does not become 0.10000000149."""
    return rows.astype(np.float64).round(DIGITS).tolist()


def _tensor(rows: np.ndarray, **parts: Any) -> dict[str, Any]:
    return {"name": INPUT, "shape": list(rows.shape), "datatype": "FP32", **parts}


def _infer_document(rows: np.ndarray) -> dict[str, Any]:
    tensor = _tensor(rows, data=_numbers(rows.ravel()))
    return {"inputs": [tensor], "outputs": [{"name": ANSWER}]}


def _base64_document(rows: np.ndarray) -> dict[str, Any]:
    """What MLServer reads quickest over REST: it knows no binary tensors there."""
    text = base64.b64encode(rows.tobytes()).decode()
    tensor = _tensor(rows, data=[text], parameters={"content_type": "base64"})
    return {"inputs": [{**tensor, "datatype": "BYTES", "shape": [1, 1]}]}


def _binary(rows: np.ndarray) -> Connect:
    """Binary tensors both ways."""
    content = rows.tobytes()
    tensor = _tensor(rows, parameters={"binary_data_size": len(content)})
    wanted = {"name": ANSWER, "parameters": {"binary_data": True}}
    head = _json({"inputs": [tensor], "outputs": [wanted]})
    headers = {**BYTES, "Inference-Header-Content-Length": str(len(head))}
    return partial(_http, _path("large"), head + content, headers)


def _infer_message(model: str) -> bytes:
    from tritonclient.grpc import service_pb2

    rows = rows_of(model)
    request = service_pb2.ModelInferRequest(model_name=model, raw_input_contents=[rows.tobytes()])
    request.inputs.add(name=INPUT, datatype="FP32", shape=rows.shape)
    request.outputs.add(name=ANSWER)
    serialized: bytes = request.SerializeToString()
    return serialized
