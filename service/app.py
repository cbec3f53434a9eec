"""The BentoML service: loads the bundle, warms up, and hands HTTP to the dataplane's door."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

import bentoml
from bentoml.exceptions import BentoMLConfigException
from starlette.exceptions import HTTPException

from models.errors import OfframpError, SettingsError
from service.calls import Calls
from service.connections import running_server, watch_connections
from service.dataplane import Dataplane
from service.ending import end_with_worker, end_worker_soon
from service.exporter import check_tracing, flush_tracing, open_tracing
from service.garbage import settle_garbage
from service.grpc_server import GrpcServer
from service.hangup import forward_hangups, on_hangup
from service.http import create_app
from service.locks import Locks
from service.metrics import Metrics
from service.reloading import Reloading
from service.repository import OnBroken, OpenModel, Repository
from service.settings import Settings, load_settings
from service.stopping import Stopping
from service.store import check_bundles, load_bundle
from service.tls import bentoml_ssl, check_certificates

# below "bentoml", whose handlers the server sets up
logger = logging.getLogger("bentoml.offramp")


async def _instance_app(scope: Any, receive: Any, send: Any) -> None:
    """The door is made with the instance, but BentoML wants its mounts at import."""
    await bentoml.get_current_service().door(scope, receive, send)


def _opener(name: str, settings: Settings, metrics: Metrics) -> OpenModel:
    def open_model(on_broken: OnBroken) -> Dataplane:
        return Dataplane(load_bundle(name), settings, metrics, on_broken)

    return open_model


def give_up(reason: str) -> None:
    """Nothing can be answered any more, or ever: the platform restarts what ends."""
    logger.critical("event=gives_up reason=%r", reason)
    end_worker_soon()


# BentoML's own HTTP metrics have the raw path as a label, without bound: /metrics is ours.
@bentoml.asgi_app(_instance_app, path="/")
@bentoml.service(
    name="offramp",
    workers=1,
    traffic={"timeout": 60},
    metrics={"enabled": False},
    # five spans and a line per request, a third of the time of a small one: ours are others
    tracing={"excluded_urls": ".*"},
    logging={"access": {"enabled": False}},
    http={"host": "127.0.0.1"},  # BentoML's own default is every address
    ssl=bentoml_ssl(),
)
class Offramp:
    """Answers each row at the first exit that is sure enough."""

    @bentoml.on_deployment
    @staticmethod
    def check_bundle() -> None:
        """Before any worker starts: what is bad ends the server, instead of a loop of restarts."""
        forward_hangups()
        try:
            settings = load_settings()
            check_certificates(settings)
            Locks(settings)
            check_bundles(settings.bundles)
            check_tracing()
        except OfframpError as error:
            raise BentoMLConfigException(str(error)) from None
        end_with_worker()

    def __init__(self) -> None:
        settings, metrics = load_settings(), Metrics()
        openers = [_opener(name, settings, metrics) for name in settings.bundles]
        self.repository = Repository(openers, give_up, settle_garbage)
        locks = Locks(settings)
        calls = Calls(settings.access_log, open_tracing())
        self.door = create_app(self.repository, metrics, settings, locks, calls)
        self.grpc = GrpcServer(self.repository, settings, locks, calls)
        self.settings = settings
        bundles = dict(zip(self.repository.names, settings.bundles, strict=True))
        self.reloading = Reloading(self.repository, bundles)
        self.stopping = Stopping(self.repository, self.grpc)
        self.tasks: list[asyncio.Task[None]] = []

    @bentoml.on_startup
    async def start_warm_up(self) -> None:
        """Open the gRPC port and begin to warm up; meanwhile `/readyz` says no."""
        try:
            port = await self.grpc.start()
        except SettingsError as error:
            return give_up(str(error))
        logger.info("event=grpc_listens port=%d", port)
        self._begin(self._warm_up_and_tell())
        if self.settings.watch_seconds:
            self._begin(self.reloading.watch(self.settings.watch_seconds))
        if server := running_server():
            self._begin(watch_connections(server, self.settings.max_connections))
            self._begin(self.reloading.when_asked())
            on_hangup(self.reloading.ask)
            self.stopping.on_signals(server)

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        self.tasks.append(asyncio.create_task(work))

    async def _warm_up_and_tell(self) -> None:
        await self.repository.start()
        for model in self.repository.index():
            if not model.reason:
                logger.info("event=ready model=%s version=%s", model.name, model.version)

    @bentoml.on_shutdown
    async def drain(self) -> None:
        """Finish the admitted rows."""
        await self.stopping.finish()
        await asyncio.to_thread(flush_tracing)

    async def __is_ready__(self) -> bool:
        if self.repository.reason:
            raise HTTPException(503, self.repository.reason)
        return True

    async def __is_alive__(self) -> bool:
        return True
