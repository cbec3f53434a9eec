"""HTTP connections that ask for nothing or read nothing: ended after some seconds."""

from __future__ import annotations

import asyncio
import logging
import resource
import signal
from collections.abc import Iterable
from typing import Any

UNREAD_SECONDS = 20.0
"""In which a client that has more to read reads nothing of it."""
IDLE_SECONDS = 15.0
"""Without a whole request line and headers; uvicorn itself allows 5 s between two requests."""
SWEEP_SECONDS = 1.0

logger = logging.getLogger("bentoml.offramp.connections")


class Connections:
    """The connections of the uvicorn server that runs this process.

    uvicorn ends a connection that is silent after an answer, but not one that never sends a request
    or that stops within its headers, and BentoML passes no limit on to it. Some hundreds of such
    connections take all the file descriptors of a process: then nobody is answered, not even a
    probe. Nor does it end one whose client does not read its answer, which holds memory and a place
    among the requests that are answered. Any other connection whose request is being read or
    answered is never ended here.

    Parameters
    ----------
    server : a `uvicorn.Server`
    limit : connections; over it those that have asked for nothing the longest are ended
    """

    def __init__(self, server: Any, limit: int, idle_seconds: float = IDLE_SECONDS) -> None:
        self._server = server
        self._limit = limit
        self._idle_seconds = idle_seconds
        self._silent: dict[Any, tuple[Any, float]] = {}  # the last cycle, and since when
        self._unread: dict[Any, tuple[int, float]] = {}  # bytes that wait, and since when

    async def watch(self) -> None:
        """Sweep until cancelled."""
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            self.sweep(asyncio.get_running_loop().time())

    def sweep(self, now: float) -> None:
        """End what has been silent for too long, or what is too many, by the clock of the loop."""
        connections = set(self._server.server_state.connections)
        self._end_unread(connections, now)
        self._silent = {
            # silent since the answer that it was silent after at the last sweep too
            connection: known
            if (known := self._silent.get(connection)) and known[0] is connection.cycle
            else (connection.cycle, now)
            for connection in connections
            if connection.cycle is None or connection.cycle.response_complete
        }
        longest_first = sorted(self._silent.items(), key=lambda item: item[1][1])
        too_many = len(connections) - self._limit
        ended = [
            connection
            for place, (connection, (_, since)) in enumerate(longest_first)
            if place < too_many or now - since >= self._idle_seconds
        ]
        for connection in ended:
            connection.transport.abort()
        if too_many > 0:
            found = len(connections)
            logger.warning("event=too_many_connections found=%d ended=%d", found, len(ended))

    def _end_unread(self, connections: Iterable[Any], now: float) -> None:
        before, self._unread = self._unread, {}
        for connection in connections:
            if connection.flow is None or not connection.flow.write_paused:
                continue
            waiting = connection.transport.get_write_buffer_size()
            known = before.get(connection)
            if known is None or known[0] != waiting:
                known = waiting, now
            self._unread[connection] = known
            if now - known[1] >= UNREAD_SECONDS:
                connection.transport.abort()


async def watch_connections(server: Any, limit: int) -> None:
    """Watch the connections of a `uvicorn.Server`.

    Parameters
    ----------
    limit : connections; never more than half of the files that this process may open
    """
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    await Connections(server, min(limit, files // 2)).watch()


def running_server() -> Any:
    """The `uvicorn.Server` of this process, or None: as the handler of SIGTERM it can be found."""
    server = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
    return server if hasattr(server, "server_state") else None
