"""A response of lines, sent as they come, for as long as the client is there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable
from contextlib import aclosing
from typing import TypeVar

from starlette.types import Receive, Scope, Send

from models.errors import Cancelled

Result = TypeVar("Result")


async def while_connected(receive: Receive, work: Awaitable[Result]) -> Result:
    """Await `work`, and cancel it when the client goes away.

    Parameters
    ----------
    receive : of a request whose body has been read: what comes next is the disconnect

    Raises
    ------
    Cancelled
        When the client went away before the work was done.
    """
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise Cancelled("the client went away before its answer")
        return working.result()
    finally:
        for task in (working, leaving):
            task.cancel()
        # what the work holds is given back before anybody goes on
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class LineStream:
    """An ASGI application that answers one request with lines of JSON.

    Parameters
    ----------
    lines : closed when the client goes away, or when all is sent
    """

    def __init__(self, lines: AsyncGenerator[bytes, None]) -> None:
        self._lines = lines

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the lines."""
        try:
            await while_connected(receive, self._send(send))
        except Cancelled:
            return  # nobody is there to be told

    async def _send(self, send: Send) -> None:
        headers = [(b"content-type", b"application/x-ndjson")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        async with aclosing(self._lines) as lines:
            async for line in lines:
                await send({"type": "http.response.body", "body": line, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
