from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from service.connections import IDLE_SECONDS, UNREAD_SECONDS, Connections
from tests.end_to_end.server import free_port


@dataclass
class Application:
    """Answers `/held` when it is let go, everything else at once."""

    asked: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(0))
    go: asyncio.Event = field(default_factory=asyncio.Event)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.asked.release()
        if scope["path"] == "/held":
            await self.go.wait()
        if scope["path"] == "/large":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            for _ in range(1000):
                await send({"type": "http.response.body", "body": bytes(2**16), "more_body": True})
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110  # uvicorn has no event for it
        await asyncio.sleep(0)


@asynccontextmanager
async def serving(application: Application) -> AsyncIterator[tuple[uvicorn.Server, int]]:
    port = free_port()
    config = uvicorn.Config(application, port=port, lifespan="off", log_config=None)
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve())
    await until(lambda: server.started)
    yield server, port
    server.should_exit = server.force_exit = True
    await task


@dataclass
class Client:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def ask(self, path: str, end: str = "\r\n\r\n") -> None:
        self.writer.write(f"GET {path} HTTP/1.1\r\nHost: test{end}".encode())
        await self.writer.drain()

    async def answer(self) -> bytes:
        return await self.reader.readuntil(b"\r\n\r\n")

    async def rest(self) -> None:
        """Read until the connection is lost."""
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await self.reader.readexactly(2**30)

    async def ended(self) -> bool:
        try:
            return not await asyncio.wait_for(self.reader.read(), timeout=30)
        except ConnectionError:
            return True


@asynccontextmanager
async def connected(
    port: int, server: uvicorn.Server, count: int = 1
) -> AsyncIterator[list[Client]]:
    present = len(server.server_state.connections)
    clients = [Client(*await asyncio.open_connection("127.0.0.1", port)) for _ in range(count)]
    await until(lambda: len(server.server_state.connections) == present + count)
    yield clients
    for client in clients:
        client.writer.close()


@pytest.mark.parametrize("sent", ["", "GET / HT", "GET / HTTP/1.1\r\nHost: test\r\nX-Slow: "])
async def test_a_connection_that_asks_for_nothing_is_ended(sent: str) -> None:
    async with serving(Application()) as (server, port), connected(port, server) as [client]:
        client.writer.write(sent.encode())
        connections = Connections(server, limit=10)
        connections.sweep(0.0)
        connections.sweep(IDLE_SECONDS - 0.1)
        await client.writer.drain()
        assert len(server.server_state.connections) == 1
        connections.sweep(IDLE_SECONDS)
        assert await client.ended()


async def test_a_request_in_flight_is_never_ended() -> None:
    application = Application()
    async with serving(application) as (server, port), connected(port, server, 2) as clients:
        connections = Connections(server, limit=1)
        for client in clients:
            await client.ask("/held")
            await application.asked.acquire()
        for now in range(0, 1000, 10):
            connections.sweep(now)
        application.go.set()
        for client in clients:
            assert (await client.answer()).startswith(b"HTTP/1.1 204")


async def test_silence_is_counted_from_the_last_answer() -> None:
    async with serving(Application()) as (server, port), connected(port, server) as [client]:
        connections = Connections(server, limit=10)
        for now in range(0, 100, 10):
            await client.ask("/")
            assert (await client.answer()).startswith(b"HTTP/1.1 204")
            connections.sweep(now)
        await client.ask("/", end="\r\n")  # its headers do not end
        connections.sweep(90 + IDLE_SECONDS)
        assert await client.ended()


async def test_over_the_limit_the_longest_silent_are_ended() -> None:
    async with serving(Application()) as (server, port), connected(port, server, 3) as old:
        connections = Connections(server, limit=4)
        connections.sweep(0.0)
        async with connected(port, server, 3) as new:
            connections.sweep(1.0)
            await until(lambda: len(server.server_state.connections) == 4)
            for client in new:
                await client.ask("/")
                assert (await client.answer()).startswith(b"HTTP/1.1 204")
            connections.sweep(IDLE_SECONDS)
            assert all([await client.ended() for client in old])


async def test_a_client_that_does_not_read_its_answer_is_ended_and_one_that_reads_is_not() -> None:
    async with serving(Application()) as (server, port), connected(port, server, 2) as clients:
        idle, reading = clients
        for client in clients:
            await client.ask("/large")
        protocols = list(server.server_state.connections)
        await until(lambda: all(one.flow.write_paused for one in protocols))
        connections = Connections(server, limit=10)
        connections.sweep(0.0)
        connections.sweep(UNREAD_SECONDS - 1)
        assert len(server.server_state.connections) == 2
        await reading.reader.readexactly(2**22)
        connections.sweep(UNREAD_SECONDS + 1)
        await until(lambda: len(server.server_state.connections) == 1)
        (left,) = server.server_state.connections
        assert left.client == reading.writer.get_extra_info("sockname")
        await idle.rest()
