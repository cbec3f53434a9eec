"""The HTTP application: the doors' routes together, and what errors become at all of them."""

from __future__ import annotations

import math
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from models.errors import OfframpError, Overloaded, PayloadTooLarge, TooSlow, Unavailable
from service.calls import Calls
from service.http_calls import HttpCalls
from service.http_locks import LockedApp, ParallelCap
from service.http_stop import HttpStop
from service.locks import Locks
from service.metrics import Metrics
from service.monitor_door import monitor_routes
from service.oip_rest import oip_routes
from service.page_door import page_routes
from service.predict_door import predict_routes
from service.repository import Repository
from service.settings import Settings
from service.statuses import error_body, message_of, status_of


def create_app(
    repository: Repository,
    metrics: Metrics,
    settings: Settings,
    locks: Locks,
    calls: Calls | None = None,
) -> HttpCalls:
    """The application over the models of one server."""

    async def exposition(_: Request) -> Response:
        return Response(metrics.exposition(), media_type=CONTENT_TYPE_LATEST)

    app = Starlette(
        routes=[
            *predict_routes(repository, settings),
            *oip_routes(repository, settings),
            *monitor_routes(repository, settings),
            *page_routes(repository, settings),
            Route("/metrics", exposition, methods=["GET"]),
        ],
        middleware=[
            Middleware(LockedApp, locks=locks),
            Middleware(ParallelCap, limit=settings.max_parallel),
            Middleware(HttpStop, in_flight=repository.in_flight),
        ],
        exception_handlers={
            OfframpError: _told,
            HTTPException: _http_error,
            Exception: _told,
        },
    )
    return HttpCalls(app, calls or Calls(settings.access_log))


async def _told(_: Request, error: Exception) -> Response:
    return JSONResponse(error_body(message_of(error)), status_of(error).http, _headers(error))


def _headers(error: Exception) -> dict[str, str]:
    if isinstance(error, PayloadTooLarge | TooSlow):
        # without it the server would go on reading a body that nobody wants
        return {"Connection": "close"}
    if isinstance(error, Overloaded):
        return {"Retry-After": str(max(1, math.ceil(error.retry_after)))}
    return {"Retry-After": "1"} if isinstance(error, Unavailable) else {}


async def _http_error(_: Request, error: Any) -> Response:
    return JSONResponse(error_body(error.detail), error.status_code, error.headers)
