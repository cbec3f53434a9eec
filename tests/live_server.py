"""A server with both of its ports on loopback, in a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import uvicorn

from models.bundle import Bundle
from service.dataplane import Dataplane
from service.grpc_server import GrpcServer
from service.http import create_app
from service.locks import Locks
from service.metrics import Metrics
from service.repository import Repository
from service.settings import Settings
from tests.end_to_end.server import free_port


@dataclass(frozen=True)
class LiveServer:
    """Host and port of each protocol, such as 127.0.0.1:3000."""

    http: str
    grpc: str


@contextmanager
def live_server(bundle: Bundle, **changed: Any) -> Iterator[LiveServer]:
    """Serve a bundle until the block ends; `changed` are settings."""
    chosen = {"lanes": 1, "threads": 1, "grpc_port": 0, "shadow_share": 0.0, **changed}
    settings = Settings(bundle=str(bundle.path), **chosen)
    running = _Running(bundle, settings)
    thread = threading.Thread(target=asyncio.run, args=(running.serve(),))
    thread.start()
    try:
        assert running.ready.wait(60)
        assert running.server is not None, "the server did not start"
        assert running.server.started
        yield LiveServer(f"127.0.0.1:{running.port}", f"127.0.0.1:{running.grpc_port}")
    finally:
        if running.server:
            running.server.should_exit = True
        thread.join(60)
        assert not thread.is_alive()


class _Server(uvicorn.Server):
    """Says when it listens."""

    def __init__(self, config: uvicorn.Config, ready: threading.Event) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        self._ready.set()


class _Running:
    def __init__(self, bundle: Bundle, settings: Settings) -> None:
        self.bundle, self.settings = bundle, settings
        self.ready = threading.Event()
        self.server: uvicorn.Server | None = None
        self.port = free_port()
        self.grpc_port = 0

    async def serve(self) -> None:
        try:
            await self._serve()
        finally:
            self.ready.set()

    async def _serve(self) -> None:
        metrics, locks = Metrics(), Locks(self.settings)
        repository = Repository(
            [lambda on_broken: Dataplane(self.bundle, self.settings, metrics, on_broken)]
        )
        await repository.start()
        rpc = GrpcServer(repository, self.settings, locks)
        self.grpc_port = await rpc.start()
        app = create_app(repository, metrics, self.settings, locks)
        config = uvicorn.Config(
            app,
            port=self.port,
            log_level="critical",
            lifespan="off",
            ssl_certfile=self.settings.tls_certificate,
            ssl_keyfile=self.settings.tls_key,
        )
        self.server = _Server(config, self.ready)
        await self.server.serve()
        await rpc.stop(1)
        await repository.close()
