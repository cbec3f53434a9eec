"""The calls of `grpc.health.v1.Health`, by which platforms ask whether to send requests here."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import Any

from grpc_health.v1 import health_pb2 as pb

from models.errors import NotFound
from service.oip_servicer import SERVICE
from service.repository import Repository
from service.rpc_errors import told
from service.tensors import brief

HEALTH = "grpc.health.v1.Health"
WATCH_SECONDS = 0.5
"""After which a change is seen."""
_STATUS = pb.HealthCheckResponse.ServingStatus


class HealthServicer:
    """Says what the repository says, until it is stopped.

    The servicer of grpcio-health-checking says what it was told last; this one asks.
    """

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self._stopped = asyncio.Event()

    def stop(self) -> None:
        """Say from now on that nothing is served."""
        self._stopped.set()

    @told
    async def Check(self, request: Any, context: Any) -> Any:
        """The status of a service, or of all when none is named."""
        status = self._status(request.service)
        if status == _STATUS.SERVICE_UNKNOWN:
            raise NotFound(f"found no service {brief(request.service)}, expected {SERVICE!r}")
        return pb.HealthCheckResponse(status=status)

    async def Watch(self, request: Any, context: Any) -> AsyncGenerator[Any, None]:
        """The same, now and whenever it changes."""
        said = None
        while not self._stopped.is_set():
            status = self._status(request.service)
            if status != said:
                yield pb.HealthCheckResponse(status=status)
                said = status
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopped.wait(), WATCH_SECONDS)
        yield pb.HealthCheckResponse(status=self._status(request.service))

    def _status(self, service: str) -> Any:
        if service not in ("", SERVICE):
            return _STATUS.SERVICE_UNKNOWN
        unready = self._stopped.is_set() or self._repository.reason
        return _STATUS.NOT_SERVING if unready else _STATUS.SERVING
