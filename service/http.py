"""The HTTP door: `POST /predict` and `/metrics`, a thin layer over the dataplane."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from models.errors import InvalidInput, OfframpError, Overloaded, PayloadTooLarge, Unavailable
from service.dataplane import Dataplane
from service.schema import describe_mismatch, request_model, response_body

logger = logging.getLogger("offramp.http")

STATUS: dict[type[OfframpError], int] = {
    InvalidInput: 400,
    PayloadTooLarge: 413,
    Overloaded: 429,
    Unavailable: 503,
}
RETRY_AFTER_SECONDS = 1


def create_app(dataplane: Dataplane) -> Starlette:
    """The Starlette application over one dataplane."""
    body_model = request_model(dataplane.manifest.input, dataplane.max_rows)

    async def predict(request: Request) -> Response:
        with dataplane.counted():
            body = await _read_body(request, dataplane.max_body_bytes)
            try:
                parsed = body_model.model_validate_json(body)
            except ValidationError as error:
                raise InvalidInput(describe_mismatch(error)) from error
        with np.errstate(over="ignore"):  # what overflows float32 is refused as not finite
            rows = np.asarray(parsed.rows, dtype=np.float32)
        prediction = await dataplane.predict(rows, parsed.policy)
        return JSONResponse(response_body(prediction, dataplane.manifest))

    async def metrics(_: Request) -> Response:
        return Response(dataplane.metrics.exposition(), media_type=CONTENT_TYPE_LATEST)

    return Starlette(
        routes=[
            Route("/predict", predict, methods=["POST"]),
            Route("/metrics", metrics, methods=["GET"]),
        ],
        exception_handlers={
            OfframpError: _domain_error,
            HTTPException: _http_error,
            ClientDisconnect: _client_gone,
            Exception: _internal_error,
        },
    )


async def _read_body(request: Request, limit: int) -> bytes:
    """The whole body, refused as soon as it is known to be over the limit."""
    body = bytearray()
    announced = request.headers.get("content-length", "")
    too_large = announced.isdecimal() and int(announced[:20]) > limit
    async for chunk in request.stream() if not too_large else ():  # type: ignore[union-attr]
        body += chunk
        too_large = len(body) > limit
        if too_large:
            break
    if too_large:
        raise PayloadTooLarge(f"body: found more than {limit} bytes; send fewer rows per request")
    return bytes(body)


async def _domain_error(_: Request, error: Exception) -> Response:
    status = STATUS.get(type(error), 500)  # type: ignore[call-overload]
    headers = {"Retry-After": str(RETRY_AFTER_SECONDS)} if status in (429, 503) else None
    return JSONResponse({"error": str(error)}, status, headers)


async def _http_error(_: Request, error: Any) -> Response:
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)


async def _client_gone(_: Request, __: Exception) -> Response:
    return Response(status_code=499)


async def _internal_error(_: Request, error: Exception) -> Response:
    logger.error("event=internal_error error=%r", error)
    return JSONResponse({"error": "internal error: see the service's log"}, 500)
