from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from tritonclient.grpc import service_pb2

from service.grpc_locks import HEALTH, INFERENCE, REPOSITORY_CALLS, GrpcCap, GrpcLocks, access_of
from service.locks import Access, Locks
from service.settings import Settings

CLIENT = "key-of-a-client-1"
ADMIN = "key-of-an-operator"
SERVICE = service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]
METHODS = sorted(method.name for method in SERVICE.methods)


class Held:
    """Calls of every kind, answered when they are let go."""

    def __init__(self) -> None:
        self.arrived: asyncio.Queue[bytes] = asyncio.Queue()
        self.go = asyncio.Event()

    async def one(self, request: bytes, context: Any) -> bytes:
        self.arrived.put_nowait(request)
        await self.go.wait()
        if request == b"fails":
            raise RuntimeError("as servicers do")
        if request == b"aborts":
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such model")
        return b"answer"

    async def many(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        async for request in requests:
            yield await self.one(request, context)

    def handlers(self) -> list[Any]:
        one = grpc.unary_unary_rpc_method_handler(self.one)
        stream = grpc.stream_stream_rpc_method_handler(self.many)
        methods = {name: stream if name == "ModelStreamInfer" else one for name in METHODS}
        return [grpc.method_handlers_generic_handler(SERVICE.full_name, methods)]


@asynccontextmanager
async def channel_to(held: Held, *interceptors: Any) -> AsyncIterator[grpc.aio.Channel]:
    server = grpc.aio.server(interceptors=interceptors, handlers=held.handlers())
    health_pb2_grpc.add_HealthServicer_to_server(health.aio.HealthServicer(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield channel
    finally:
        await server.stop(None)


def call(channel: Any, name: str, request: bytes = b"", key: str | None = None) -> Any:
    metadata = None if key is None else (("authorization", f"Bearer {key}"),)
    method = INFERENCE + name
    if name != "ModelStreamInfer":
        return channel.unary_unary(method)(request, metadata=metadata, timeout=30)
    return channel.stream_stream(method)(iter([request]), metadata=metadata, timeout=30)


async def code(calling: Any) -> str:
    try:
        if hasattr(calling, "__aiter__"):
            [_ async for _ in calling]
        else:
            await calling
    except grpc.aio.AioRpcError as error:
        return str(error.code().name)
    return "OK"


async def healthy(channel: Any) -> bool:
    answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


@pytest.fixture
def locks(tmp_path: Path) -> Locks:
    (tmp_path / "keys").write_text(f"{CLIENT}\n")
    (tmp_path / "admin_keys").write_text(f"{ADMIN}\n")
    return Locks(Settings(keys_file=tmp_path / "keys", admin_keys_file=tmp_path / "admin_keys"))


async def test_every_call_asks_for_its_key(locks: Locks) -> None:
    held = Held()
    held.go.set()
    async with channel_to(held, GrpcLocks(locks)) as channel:
        for name in METHODS:
            codes = [await code(call(channel, name, key=key)) for key in (None, CLIENT, ADMIN)]
            if name in ("ServerLive", "ServerReady"):
                assert codes == ["OK", "OK", "OK"], name
            elif name in ("RepositoryModelLoad", "RepositoryModelUnload"):
                assert codes == ["UNAUTHENTICATED", "PERMISSION_DENIED", "OK"], name
            else:
                assert codes == ["UNAUTHENTICATED", "OK", "OK"], name


async def test_health_asks_for_none(locks: Locks) -> None:
    async with channel_to(Held(), GrpcLocks(locks)) as channel:
        assert await healthy(channel)


async def test_what_nobody_serves_asks_for_a_key_too(locks: Locks) -> None:
    async with channel_to(Held(), GrpcLocks(locks)) as channel:
        assert await code(call(channel, "Nothing")) == "UNAUTHENTICATED"
        assert await code(call(channel, "Nothing", key=CLIENT)) == "UNIMPLEMENTED"


async def test_a_large_message_without_key_is_refused_unread(locks: Locks) -> None:
    async with channel_to(Held(), GrpcLocks(locks)) as channel:
        refused = call(channel, "ModelInfer", bytes(8 * 2**20))
        assert await code(refused) == "UNAUTHENTICATED"
        assert "send Authorization: Bearer <key>" in await refused.details()


def test_calls_are_named_as_the_protocol_has_them() -> None:
    named = {name.removeprefix(INFERENCE) for name in REPOSITORY_CALLS}
    assert named <= set(METHODS)
    assert access_of(HEALTH + "Watch") is Access.OPEN
    assert access_of("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo") is (
        Access.INFER
    )


@pytest.mark.parametrize("name", ["ModelInfer", "ModelStreamInfer"])
@pytest.mark.parametrize("ending", ["answers", "fails", "aborts", "cancelled"])
async def test_places_are_given_back_however_a_call_ends(name: str, ending: str) -> None:
    held = Held()
    async with channel_to(held, GrpcCap(limit=1)) as channel:
        for _ in range(3):
            first = call(channel, name, ending.encode())
            ended = asyncio.ensure_future(code(first))
            await held.arrived.get()
            refused = call(channel, name)
            assert await code(refused) == "RESOURCE_EXHAUSTED"
            assert ("retry-after", "1") in tuple(await refused.trailing_metadata())
            if ending == "cancelled":
                first.cancel()
            held.go.set()
            await asyncio.gather(ended, return_exceptions=True)
            await place_free(channel, name)
            held.go.clear()
            while not held.arrived.empty():
                held.arrived.get_nowait()


async def place_free(channel: Any, name: str) -> None:
    """The end of a cancelled call reaches the server some time after the client."""
    async with asyncio.timeout(30):
        while await code(call(channel, name)) == "RESOURCE_EXHAUSTED":
            pass


async def test_calls_up_to_the_limit_are_answered_at_once() -> None:
    held = Held()
    async with channel_to(held, GrpcCap(limit=3)) as channel:
        names = ("ModelInfer", "ModelStreamInfer", "ModelInfer")
        calls = [asyncio.ensure_future(code(call(channel, name))) for name in names]
        for _ in calls:
            await held.arrived.get()
        assert await code(call(channel, "ModelMetadata")) == "RESOURCE_EXHAUSTED"
        assert await healthy(channel)
        held.go.set()
        assert await asyncio.gather(*calls) == ["OK"] * 3


async def test_what_nobody_serves_is_no_matter_of_the_cap() -> None:
    async with channel_to(Held(), GrpcCap(limit=1)) as channel:
        assert await code(call(channel, "Nothing")) == "UNIMPLEMENTED"


async def test_health_passes_at_the_limit() -> None:
    held = Held()
    async with channel_to(held, GrpcCap(limit=1)) as channel:
        first = asyncio.ensure_future(code(call(channel, "ModelInfer")))
        await held.arrived.get()
        live = asyncio.ensure_future(code(call(channel, "ServerLive")))
        await held.arrived.get()
        assert await healthy(channel)
        held.go.set()
        assert await asyncio.gather(first, live) == ["OK", "OK"]
