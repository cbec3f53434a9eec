"""The stop of a server: refuse what is new, answer what was accepted, end.

uvicorn alone would stop listening at once, while the supervisor holds the socket open: clients that
connect then would wait for an answer that never comes. And it knows nothing of the gRPC port.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Collection
from contextlib import suppress
from time import monotonic
from typing import Any

from service.grpc_server import GrpcServer
from service.repository import Repository

GRACE_SECONDS = 30.0
"""For the requests that were accepted, and for clients to read their answers."""
CLOSE_SECONDS = 2.0
"""For what is left then: whoever takes longer is left alone."""
SENT_SECONDS = 0.1
"""After which it looks again whether all answers are sent."""

logger = logging.getLogger("bentoml.offramp")


class Stopping:
    """Stops both ports of a server together.

    Parameters
    ----------
    rpc : the server of the gRPC port
    """

    def __init__(
        self, repository: Repository, rpc: GrpcServer, grace_seconds: float = GRACE_SECONDS
    ) -> None:
        self._repository = repository
        self._rpc = rpc
        self._grace_seconds = grace_seconds
        self._ending: asyncio.Task[None] | None = None

    def on_signals(self, server: Any) -> None:
        """Stop at SIGTERM or SIGINT, then end `server`, the `uvicorn.Server` of this process.

        It listens to the last, so that whoever asks meanwhile is refused and does not wait.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._begin, server)

    async def finish(self) -> None:
        """Refuse new requests at both ports, wait for the accepted ones, and close the models.

        It does nothing when a signal has had it done.
        """
        if self._ending is None:
            await self._finish(connections=set())

    def _begin(self, server: Any) -> None:
        if self._ending is None:  # another signal changes nothing
            self._ending = asyncio.create_task(self._end(server))

    async def _end(self, server: Any) -> None:
        try:
            await self._finish(server.server_state.connections)
        finally:
            server.config.timeout_graceful_shutdown = CLOSE_SECONDS
            server.handle_exit(signal.SIGTERM, None)

    async def _finish(self, connections: Collection[Any]) -> None:
        end, in_flight = monotonic() + self._grace_seconds, self._repository.in_flight
        self._repository.stop()
        self._rpc.refuse()
        logger.info("event=stopping requests=%d", in_flight.accepted)
        given_up = await in_flight.finish(self._grace_seconds)
        if given_up:
            told = "event=requests_given_up requests=%d after_seconds=%g"
            logger.error(told, given_up, self._grace_seconds)
        while monotonic() < end and any(map(_sends, connections)):  # noqa: ASYNC110  # no event
            await asyncio.sleep(SENT_SECONDS)
        await self._rpc.stop(CLOSE_SECONDS)
        with suppress(TimeoutError):  # a bundle that is being loaded is not waited for
            await asyncio.wait_for(self._repository.close(), CLOSE_SECONDS)


def _sends(connection: Any) -> bool:
    """Whether a connection of uvicorn's has parts of an answer that the client has not taken."""
    return bool(connection.transport.get_write_buffer_size())
