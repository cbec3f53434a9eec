"""The gRPC server in a loop and a thread of its own, as it runs beside the HTTP server."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import tritonclient.grpc as triton
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

from service.calls import Calls
from service.dataplane import Dataplane
from service.grpc_server import GrpcServer
from service.locks import Locks
from service.repository import Repository
from service.settings import Settings
from service.tensors import DATATYPES
from tests.service.conftest import LIMITS

Result = TypeVar("Result")
Stub = service_pb2_grpc.GRPCInferenceServiceStub


@dataclass
class GrpcDoor:
    """A running server.

    address : where it listens
    """

    server: GrpcServer
    loop: asyncio.AbstractEventLoop
    address: str = ""

    def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Run it in the server's loop."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(timeout=60)


@contextmanager
def grpc_door(
    repository: Repository,
    locks: Locks | None = None,
    calls: Calls | None = None,
    **changed: Any,
) -> Iterator[GrpcDoor]:
    """Serve on a free port of loopback."""
    settings = Settings(**{"grpc_port": 0, **LIMITS, **changed})
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    door = GrpcDoor(GrpcServer(repository, settings, locks, calls), loop)
    try:
        door.address = f"127.0.0.1:{door.run(door.server.start())}"
        yield door
    finally:
        door.run(door.server.stop(grace_seconds=0))
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def over(plane: Dataplane) -> Repository:
    """A repository of one model that is there already."""
    return Repository([lambda on_broken: plane])


def numbers(plane: Dataplane, rows: np.ndarray) -> list[triton.InferInput]:
    """Rows as the input of a model of numbers, as tritonclient sends them."""
    (spec,) = plane.manifest.inputs
    tensor = triton.InferInput(spec.name, rows.shape, "FP32")
    tensor.set_data_from_numpy(np.ascontiguousarray(rows, np.float32))
    return [tensor]


def message(plane: Dataplane, rows: np.ndarray, **parameters: bool | int | str) -> Any:
    """The same as a message, for the bare stub."""
    (spec,) = plane.manifest.inputs
    request = pb.ModelInferRequest(
        model_name=plane.name,
        inputs=[
            pb.ModelInferRequest.InferInputTensor(name=spec.name, datatype="FP32", shape=rows.shape)
        ],
        raw_input_contents=[np.ascontiguousarray(rows, np.float32).tobytes()],
    )
    kinds = {bool: "bool_param", int: "int64_param", str: "string_param", float: "double_param"}
    for name, value in parameters.items():
        setattr(request.parameters[name], kinds[type(value)], value)
    return request


def outputs(response: Any) -> dict[str, np.ndarray]:
    """The tensors of a `ModelInferResponse`."""
    return {
        tensor.name: np.frombuffer(content, DATATYPES[tensor.datatype]).reshape(tensor.shape)
        for tensor, content in zip(response.outputs, response.raw_output_contents, strict=True)
    }


@dataclass
class Caught:
    """What the callback of a stream was called with."""

    results: list[triton.InferResult] = field(default_factory=list)
    errors: list[triton.InferenceServerException] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)

    def __call__(self, result: Any, error: Any) -> None:
        with self.changed:
            (self.results if error is None else self.errors).append(result or error)
            self.changed.notify_all()

    def wait(self, results: int = 0, errors: int = 0) -> None:
        """Until there are as many."""
        with self.changed:
            arrived = self.changed.wait_for(
                lambda: len(self.results) >= results and len(self.errors) >= errors, timeout=60
            )
        assert arrived, (self.results, self.errors)


def places(results: Sequence[triton.InferResult]) -> list[int]:
    """The rows that the parts of a stream hold, in order of arrival."""
    return [int(place) for result in results for place in result.as_numpy("row")]
