from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

from service.dataplane import Dataplane
from service.grpc_server import GrpcServer
from service.http import create_app
from service.http_calls import HttpCalls
from service.locks import Locks
from service.metrics import Metrics
from service.repository import Repository
from service.settings import Settings
from service.stopping import Stopping
from tests.service.conftest import Gate
from tests.service.grpc_door import message
from tests.small_bundles import small_bundle

ROWS = np.zeros((2, 6), np.float32)
BODY = json.dumps({"rows": ROWS.tolist(), "policy": "full"}).encode()
SERVING, NOT_SERVING = (
    health_pb2.HealthCheckResponse.SERVING,
    health_pb2.HealthCheckResponse.NOT_SERVING,
)


@dataclass
class Doors:
    """Both doors over one model, in the test's own event loop."""

    repository: Repository
    plane: Dataplane
    app: HttpCalls
    rpc: GrpcServer
    http: httpx.AsyncClient
    channel: grpc.aio.Channel

    @property
    def stub(self) -> Any:
        return service_pb2_grpc.GRPCInferenceServiceStub(self.channel)

    def predict(self) -> asyncio.Task[httpx.Response]:
        return asyncio.create_task(self.http.post("/predict", content=BODY))

    def infer(self) -> asyncio.Task[Any]:
        return asyncio.ensure_future(self.stub.ModelInfer(message(self.plane, ROWS, policy="full")))

    async def health(self) -> Any:
        stub = health_pb2_grpc.HealthStub(self.channel)
        return (await stub.Check(health_pb2.HealthCheckRequest())).status

    async def until_accepted(self, count: int) -> None:
        while self.repository.in_flight.accepted != count:  # noqa: ASYNC110  # nothing tells of it
            await asyncio.sleep(0.001)


@asynccontextmanager
async def doors(folder: Path) -> AsyncIterator[Doors]:
    bundle = small_bundle(folder / "bundle", "numbers")
    settings = Settings(bundle=str(bundle.path), lanes=1, threads=1, grpc_port=0)
    metrics, locks = Metrics(), Locks(settings)
    plane = Dataplane(bundle, settings, metrics)
    repository = Repository([lambda on_broken: plane])
    await repository.start()
    rpc = GrpcServer(repository, settings, locks)
    app = create_app(repository, metrics, settings, locks)
    address = f"127.0.0.1:{await rpc.start()}"
    transport = httpx.ASGITransport(app)
    async with (
        httpx.AsyncClient(transport=transport, base_url="http://doors", timeout=60) as http,
        grpc.aio.insecure_channel(address) as channel,
    ):
        yield Doors(repository, plane, app, rpc, http, channel)
    await rpc.stop(0)
    await repository.close()


async def refused(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


async def test_both_doors_answer_what_they_accepted_and_refuse_the_rest(
    tmp_path: Path, gates: list[Gate]
) -> None:
    async with doors(tmp_path) as server:
        gates.append(Gate(stage=1))
        predicting, inferring = server.predict(), server.infer()
        await server.until_accepted(2)
        assert await server.health() == SERVING
        stopping = asyncio.create_task(Stopping(server.repository, server.rpc).finish())
        await asyncio.sleep(0)

        late = await server.predict()
        assert late.status_code == 503
        assert "is stopping" in late.json()["error"]
        assert late.headers["connection"] == "close"
        assert late.headers["retry-after"] == "1"
        error = await refused(server.infer())
        assert error.code() == grpc.StatusCode.UNAVAILABLE
        assert "is stopping" in str(error.details())
        assert (await refused(server.stub.ModelMetadata(pb.ModelMetadataRequest()))).code() == (
            grpc.StatusCode.UNAVAILABLE
        )

        assert await server.health() == NOT_SERVING
        assert not (await server.stub.ServerReady(pb.ServerReadyRequest())).ready
        ready = await server.http.get("/v2/health/ready")
        assert (ready.status_code, "is stopping" in ready.text) == (503, True)
        name = server.plane.name
        assert (await server.http.get(f"/v2/models/{name}/ready")).status_code == 503
        assert [model.state for model in server.repository.index()] == ["UNAVAILABLE"]
        assert (await server.http.get("/metrics")).status_code == 200

        assert not stopping.done()
        gates[0].opened.set()
        assert (await predicting).status_code == 200
        assert (await inferring).model_version == server.plane.version
        await stopping


async def test_who_takes_longer_than_the_grace_time_is_told(
    tmp_path: Path, gates: list[Gate], caplog: pytest.LogCaptureFixture
) -> None:
    async with doors(tmp_path) as server:
        gates.append(Gate(stage=1))
        predicting, inferring = server.predict(), server.infer()
        await server.until_accepted(2)
        stopping = Stopping(server.repository, server.rpc, grace_seconds=0.01)
        ending = asyncio.create_task(stopping.finish())
        response = await predicting
        assert (response.status_code, "is stopping" in response.text) == (503, True)
        error = await refused(inferring)
        assert error.code() == grpc.StatusCode.UNAVAILABLE
        assert "is stopping" in str(error.details())
        gates[0].opened.set()
        await ending
        assert "event=requests_given_up requests=2 after_seconds=0.01" in caplog.text


@dataclass
class Upload:
    """A request whose body comes in two parts, the second one when the test says so."""

    sent: list[Any] = field(default_factory=list)
    parts: list[bytes] = field(default_factory=lambda: [BODY[:10], BODY[10:]])
    rest: asyncio.Event = field(default_factory=asyncio.Event)

    async def receive(self) -> Any:
        if len(self.parts) < 2:
            await self.rest.wait()
        if not self.parts:
            await asyncio.Event().wait()
        body = self.parts.pop(0)
        return {"type": "http.request", "body": body, "more_body": bool(self.parts)}

    async def send(self, message: Any) -> None:
        self.sent.append(message)

    async def call(self, app: HttpCalls) -> int:
        scope = {"type": "http", "method": "POST", "path": "/predict", "headers": []}
        await app({**scope, "query_string": b""}, self.receive, self.send)
        return int(self.sent[0]["status"])


async def test_a_request_is_accepted_when_its_body_is_there(
    tmp_path: Path, gates: list[Gate]
) -> None:
    async with doors(tmp_path) as server:
        gates.append(Gate(stage=1))
        whole, half = Upload(), Upload()
        whole.rest.set()
        answering = asyncio.create_task(whole.call(server.app))
        reading = asyncio.create_task(half.call(server.app))
        await asyncio.to_thread(gates[0].reached.wait, 60)
        await server.until_accepted(1)
        server.repository.stop()
        assert await reading == 503
        headers = dict(half.sent[0]["headers"])
        assert headers[b"connection"] == b"close"
        gates[0].opened.set()
        assert await answering == 200


async def test_a_stream_that_has_begun_is_told_to_its_end(
    tmp_path: Path, gates: list[Gate]
) -> None:
    async with doors(tmp_path) as server:
        gates.append(Gate(stage=1))
        body = json.dumps({"rows": ROWS.tolist(), "stream": True}).encode()
        streaming = asyncio.create_task(server.http.post("/predict", content=body))
        await server.until_accepted(1)
        server.repository.stop()
        gates[0].opened.set()
        lines = [json.loads(line) for line in (await streaming).text.splitlines()]
        assert sorted(line["row"] for line in lines) == [0, 1]
