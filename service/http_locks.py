"""The locks and the cap at the HTTP door, around the whole application."""

from __future__ import annotations

import re

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from models.errors import OfframpError, Overloaded, Unauthenticated
from service.locks import Access, Locks
from service.statuses import error_body, message_of, status_of

HEALTH = frozenset({"/livez", "/readyz", "/healthz", "/v2/health/live", "/v2/health/ready"})
METRICS = "/metrics"
PAGE = re.compile(r"/ui/?|/ui/[\w-]+\.(?:css|html|ico|js|png|svg)", re.ASCII)
REPOSITORY = "/v2/repository/"
INDEX = "/v2/repository/index"
RESET = "/monitor/reset"
DISCARDED_BYTES = 2**24
"""Of the body of a refused request: a longer one ends its connection."""


def access_of(scope: Scope) -> Access:
    """What a request asks for, by its path.

    Whoever routes may see more in a path than it says: a line break at its end is not looked at, a
    prefix may be cut off. So what is open is compared whole, what holds the repository's or the
    reset's path anywhere is an admin's call, and everything else asks for a key.
    """
    path = path_of(scope)
    if (REPOSITORY in scope["path"] and path != INDEX) or RESET in scope["path"]:
        return Access.ADMIN
    if path in HEALTH or PAGE.fullmatch(path):
        return Access.OPEN
    return Access.METRICS if path == METRICS else Access.INFER


class LockedApp:
    """Lets requests through to the application that have the key they need."""

    def __init__(self, app: ASGIApp, locks: Locks) -> None:
        self._app = app
        self._locks = locks

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 401 or 403, or let the application answer."""
        if scope["type"] == "lifespan":
            return await self._app(scope, receive, send)
        try:
            self._locks.check(access_of(scope), Headers(scope=scope).get("authorization"))
        except OfframpError as error:
            challenge = isinstance(error, Unauthenticated)
            headers = {"WWW-Authenticate": "Bearer"} if challenge else {}
            return await _refusal(scope, error, headers)(scope, receive, send)
        await self._app(scope, receive, send)


class ParallelCap:
    """Refuses requests while as many as the limit are being answered.

    They get 429, as where the queue is full: to a client it is the same, and a 503 would make
    proxies take a server out that is well and busy. Probes and metrics always pass: a server that
    is busy must not look dead, nor become invisible.

    Parameters
    ----------
    limit : requests that are answered at the same time
    """

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self._app = app
        self._limit = limit
        self._answering = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 429, or let the application answer."""
        if scope["type"] == "lifespan" or path_of(scope) in HEALTH | {METRICS}:
            return await self._app(scope, receive, send)
        if self._answering >= self._limit:
            error = Overloaded(f"{self._limit} requests are being answered; try again in a moment")
            return await _refusal(scope, error, {"Retry-After": "1"})(scope, receive, send)
        self._answering += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._answering -= 1


def path_of(scope: Scope) -> str:
    """The path without the application's own prefix."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))


def _refusal(scope: Scope, error: OfframpError, headers: dict[str, str]) -> ASGIApp:
    if scope["type"] == "websocket":
        return _closed
    if not _soon_over(Headers(scope=scope)):
        headers["Connection"] = "close"
    return JSONResponse(error_body(message_of(error)), status_of(error).http, headers)


async def _closed(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "websocket.close", "code": 1008, "reason": ""})


def _soon_over(headers: Headers) -> bool:
    """Whether the body is short enough to be discarded, for the sake of the connection."""
    if "transfer-encoding" in headers:
        return False
    announced = headers.get("content-length", "0")
    return announced.isdecimal() and int(announced[:19]) <= DISCARDED_BYTES
