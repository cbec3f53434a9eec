"""The calls at the HTTP door, around the whole application."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.call import enter_call, leave_call
from service.calls import READ, Calls, seen_given_up
from service.http_locks import access_of, path_of
from service.locks import Access
from service.request_ids import HEADER

GIVEN_UP = 499
"""Status of what was cancelled before it had one."""
TRANSPORT_CLOSED = "the handler is closed"
"""What uvloop says."""
_SILENT = (Access.OPEN, Access.METRICS)
_READ = {name.encode(): name for name in READ}
_HEADER = HEADER.encode()


class HttpCalls:
    """Gives every request an id, and sends it back with the answer, whatever that is.

    Around Starlette's own application and not one of its middlewares, which what it answers to
    internal errors does not pass.

    app : the application
    """

    def __init__(self, app: ASGIApp, calls: Calls) -> None:
        self.app = app
        self._calls = calls

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the application answer."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        sent = {
            _READ[name]: value.decode("latin-1")
            for name, value in scope["headers"]
            if name in _READ
        }
        path = path_of(scope)
        watched = self._calls.watches and access_of(scope) not in _SILENT
        call = self._calls.begin(sent, _door(path), path, watched)
        status = GIVEN_UP

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = [*message.get("headers", ()), (_HEADER, call.id.encode())]
                message = {**message, "headers": headers}
            try:
                await send(message)
            except RuntimeError as error:
                # of a client that has just gone, which uvicorn hears of a moment later
                if TRANSPORT_CLOSED not in str(error):
                    raise

        entered = enter_call(call)
        try:
            with seen_given_up():
                await self.app(scope, receive, answer)
        finally:
            leave_call(entered)
            self._calls.end(call, status)


def _door(path: str) -> str:
    if path == "/predict":
        return "predict"
    return "oip" if path.startswith("/v2") else "http"
