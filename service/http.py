"""The HTTP door: `POST /predict` and `/metrics`, a thin layer over the dataplane."""

from __future__ import annotations

import logging
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from models.errors import (
    Cancelled,
    InvalidInput,
    OfframpError,
    Overloaded,
    PayloadTooLarge,
    Unavailable,
)
from service.dataplane import Dataplane
from service.schema import (
    describe_mismatch,
    raw_rows,
    refuse_unknown,
    request_model,
    response_body,
)

logger = logging.getLogger("bentoml.offramp.http")

STATUS = {
    InvalidInput.reason: 400,
    PayloadTooLarge.reason: 413,
    Overloaded.reason: 429,
    Cancelled.reason: 499,
    Unavailable.reason: 503,
}
HEADERS = {
    # without it the server would go on reading a body that nobody wants
    PayloadTooLarge.reason: {"Connection": "close"},
    Overloaded.reason: {"Retry-After": "1"},
    Unavailable.reason: {"Retry-After": "1"},
}


def create_app(dataplane: Dataplane) -> Starlette:
    """The Starlette application over one dataplane."""
    body_model = request_model(dataplane.manifest, dataplane.max_rows)

    async def predict(request: Request) -> Response:
        with dataplane.counted():
            body = await _read_body(request, dataplane.max_body_bytes)
            try:
                parsed = body_model.model_validate_json(body)
            except ValidationError as error:
                raise InvalidInput(describe_mismatch(error)) from error
            refuse_unknown(parsed)
            rows = raw_rows(parsed.rows, dataplane.manifest)
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
            Exception: _internal_error,
        },
    )


async def _read_body(request: Request, limit: int) -> bytes:
    """The whole body, refused as soon as it is known to be over the limit."""
    too_large = PayloadTooLarge(f"body: found over {limit} bytes; send fewer rows per request")
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced[:19]) > limit:
        raise too_large
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > limit:
                raise too_large
    except ClientDisconnect:
        raise Cancelled("the client went away before its request was complete") from None
    return bytes(body)


async def _domain_error(_: Request, error: Any) -> Response:
    status = STATUS.get(error.reason, 500)
    return JSONResponse({"error": str(error)}, status, HEADERS.get(error.reason))


async def _http_error(_: Request, error: Any) -> Response:
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)


async def _internal_error(_: Request, error: Exception) -> Response:
    logger.error("event=internal_error error=%r", error)
    return JSONResponse({"error": "internal error: see the service's log"}, 500)
