"""The requests that are being answered, and what becomes of them when the server stops."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from models.errors import Unavailable
from service.lanes import STOPPING

LAST_SECONDS = 1.0
"""For refusals to reach the clients of requests that are given up."""


@dataclass(eq=False)
class Request:
    """One of them.

    accepted : whether it is answered even when the server stops
    """

    accepted: bool
    limit: asyncio.Timeout

    def give_up(self) -> None:
        """Cancel it at once."""
        if not self.limit.expired():
            self.limit.reschedule(0)


class InFlight:
    """Requests of both ports, in one event loop.

    stopping : whether no more are taken
    """

    def __init__(self) -> None:
        self.stopping = False
        self._requests: set[Request] = set()
        self._none = asyncio.Event()

    @property
    def accepted(self) -> int:
        """How many are answered before the server stops."""
        return sum(request.accepted for request in self._requests)

    @asynccontextmanager
    async def request(self, accepted: bool) -> AsyncIterator[Request]:
        """Answer a request in here; it may be accepted later.

        Raises
        ------
        Unavailable
            When the server stops: at once, before the request was accepted, or when there is no
            more time for it.
        """
        if self.stopping:
            raise Unavailable(STOPPING)
        request = None
        try:
            async with asyncio.timeout(None) as limit:
                request = Request(accepted, limit)
                self._requests.add(request)
                yield request
        except TimeoutError:
            if not limit.expired():
                raise
            raise Unavailable(STOPPING) from None
        finally:
            if request:
                self._leave(request)

    def stop(self) -> None:
        """Take no more requests, and give up those that are not accepted."""
        self.stopping = True
        for request in self._requests:
            if not request.accepted:
                request.give_up()
        if not self._requests:
            self._none.set()

    async def finish(self, seconds: float) -> int:
        """Wait for the requests after `stop`; how many were given up, as they took longer."""
        if await self._ended(seconds):
            return 0
        late = list(self._requests)
        for request in late:
            request.give_up()
        await self._ended(LAST_SECONDS)
        return len(late)

    async def _ended(self, seconds: float) -> bool:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._none.wait(), seconds)
        return not self._requests

    def _leave(self, request: Request) -> None:
        self._requests.discard(request)
        if self.stopping and not self._requests:
            self._none.set()
