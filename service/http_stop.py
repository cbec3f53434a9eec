"""The HTTP door while the server stops."""

from __future__ import annotations

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from models.errors import Unavailable
from service.in_flight import InFlight
from service.statuses import error_body, message_of, status_of

HEADERS = {"Retry-After": "1", "Connection": "close"}


class HttpStop:
    """Refuses requests with 503 when the server stops; what is accepted is answered.

    A request is accepted when its body has come whole: one that still sends its body when the stop
    begins is refused at once, and can be sent to another server as nothing was done for it. GET
    passes always: probes and metrics say how the stop goes, and none of the others takes long.
    """

    def __init__(self, app: ASGIApp, in_flight: InFlight) -> None:
        self._app = app
        self._in_flight = in_flight

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 503, or let the application answer."""
        if scope["type"] != "http" or scope["method"] in ("GET", "HEAD"):
            return await self._app(scope, receive, send)
        begun = False

        async def seen(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            async with self._in_flight.request(accepted=False) as request:

                async def accepting() -> Message:
                    message = await receive()
                    request.accepted = not message.get("more_body", False)
                    return message

                await self._app(scope, accepting, seen)
        except Unavailable as error:
            # without a way to say so, an answer that has begun is cut off
            if not begun:
                body = error_body(message_of(error))
                await JSONResponse(body, status_of(error).http, HEADERS)(scope, receive, send)
