"""The BentoML service: loads the bundle, warms up, and hands HTTP to the dataplane's door."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import bentoml
from bentoml.exceptions import BentoMLConfigException
from starlette.exceptions import HTTPException

from models.errors import OfframpError, SettingsError
from service.connections import watch_connections
from service.dataplane import Dataplane
from service.ending import end_with_worker, end_worker_soon
from service.grpc_server import GrpcServer
from service.http import create_app
from service.locks import Locks
from service.metrics import Metrics
from service.repository import OnBroken, Repository
from service.settings import load_settings
from service.store import check_model, load_bundle
from service.tls import bentoml_ssl, check_certificates

# below "bentoml", whose handlers the server sets up
logger = logging.getLogger("bentoml.offramp")

GRACE_SECONDS = 30.0
"""For gRPC calls that run when the server is asked to end."""


async def _instance_app(scope: Any, receive: Any, send: Any) -> None:
    """The door is made with the instance, but BentoML wants its mounts at import."""
    await bentoml.get_current_service().door(scope, receive, send)


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
    # five spans and a line per request, a third of the time of a small one
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
        try:
            settings = load_settings()
            check_certificates(settings)
            Locks(settings)
            check_model(load_bundle(settings.bundle))
        except OfframpError as error:
            raise BentoMLConfigException(str(error)) from None
        end_with_worker()

    def __init__(self) -> None:
        settings, metrics = load_settings(), Metrics()

        def open_model(on_broken: OnBroken) -> Dataplane:
            return Dataplane(load_bundle(settings.bundle), settings, metrics, on_broken)

        self.repository = Repository([open_model], give_up)
        locks = Locks(settings)
        self.door = create_app(self.repository, metrics, settings, locks)
        self.grpc = GrpcServer(self.repository, settings, locks)
        self.max_connections = settings.max_connections

    @bentoml.on_startup
    async def start_warm_up(self) -> None:
        """Open the gRPC port and begin to warm up; meanwhile `/readyz` says no."""
        try:
            port = await self.grpc.start()
        except SettingsError as error:
            return give_up(str(error))
        logger.info("event=grpc_listens port=%d", port)
        self._watch = asyncio.create_task(watch_connections(self.max_connections))
        self._warm_up = asyncio.create_task(self._warm_up_and_tell())

    async def _warm_up_and_tell(self) -> None:
        await self.repository.start()
        for model in self.repository.index():
            if not model.reason:
                logger.info("event=ready model=%s version=%s", model.name, model.version)

    @bentoml.on_shutdown
    async def drain(self) -> None:
        """Finish the admitted rows."""
        await self._warm_up
        await self.grpc.stop(GRACE_SECONDS)
        await self.repository.close()

    async def __is_ready__(self) -> bool:
        if self.repository.reason:
            raise HTTPException(503, self.repository.reason)
        return True

    async def __is_alive__(self) -> bool:
        return True
