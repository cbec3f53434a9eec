"""The HTTP door: `POST /predict` and `/metrics`, a thin layer over the dataplane."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from models.encoding import RawRows
from models.errors import (
    Cancelled,
    DeadlineExceeded,
    InvalidInput,
    OfframpError,
    Overloaded,
    PayloadTooLarge,
    Unavailable,
)
from models.manifest import Manifest
from service.dataplane import Dataplane
from service.line_stream import LineStream, while_connected
from service.options import Options
from service.prediction import Prediction
from service.schema import (
    describe_mismatch,
    options_of,
    raw_rows,
    refuse_unknown,
    request_model,
    response_body,
    row_bodies,
)

logger = logging.getLogger("bentoml.offramp.http")

STATUS = {
    InvalidInput.reason: 400,
    PayloadTooLarge.reason: 413,
    Overloaded.reason: 429,
    Cancelled.reason: 499,
    Unavailable.reason: 503,
    DeadlineExceeded.reason: 504,
}


def create_app(dataplane: Dataplane) -> Starlette:
    """The Starlette application over one dataplane."""
    body_model = request_model(dataplane.manifest, dataplane.max_rows)

    async def predict(request: Request) -> Any:
        with dataplane.counted():
            parsed = _parsed(await _read_body(request, dataplane.max_body_bytes), body_model)
            rows = raw_rows(parsed.rows, dataplane.manifest)
        options = options_of(parsed)
        if parsed.stream:
            return await _stream(request, dataplane, rows, options)
        prediction = await while_connected(request.receive, dataplane.predict(rows, options))
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


def _parsed(body: bytes, model: Any) -> Any:
    try:
        parsed = model.model_validate_json(body)
    except ValidationError as error:
        raise InvalidInput(describe_mismatch(error)) from error
    refuse_unknown(parsed)
    return parsed


async def _stream(
    request: Request, dataplane: Dataplane, rows: RawRows, options: Options
) -> LineStream:
    parts = dataplane.stream(rows, options)
    # what goes wrong before the first row still has a status of its own
    first = await while_connected(request.receive, anext(parts))
    return LineStream(_lines(first, parts, dataplane.manifest))


async def _lines(
    first: Prediction, parts: AsyncGenerator[Prediction, None], manifest: Manifest
) -> AsyncGenerator[bytes, None]:
    """The rows of every part, a line each; an error ends them with a line of its own."""
    async with aclosing(parts):
        yield _row_lines(first, manifest)
        try:
            async for part in parts:
                yield _row_lines(part, manifest)
        except OfframpError as error:
            yield _line({"error": str(error)})
        except Exception as error:
            yield _line(_internal(error))


def _row_lines(part: Prediction, manifest: Manifest) -> bytes:
    places = part.routed.rows.tolist()
    bodies = row_bodies(part, manifest)
    return b"".join(
        _line({"row": place, **body}) for place, body in zip(places, bodies, strict=True)
    )


def _line(document: dict[str, Any]) -> bytes:
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


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
    return JSONResponse({"error": str(error)}, status, _headers(error))


def _headers(error: OfframpError) -> dict[str, str]:
    if isinstance(error, PayloadTooLarge):
        # without it the server would go on reading a body that nobody wants
        return {"Connection": "close"}
    if isinstance(error, Overloaded):
        return {"Retry-After": str(max(1, math.ceil(error.retry_after)))}
    return {"Retry-After": "1"} if isinstance(error, Unavailable) else {}


async def _http_error(_: Request, error: Any) -> Response:
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)


async def _internal_error(_: Request, error: Exception) -> Response:
    return JSONResponse(_internal(error), 500)


def _internal(error: Exception) -> dict[str, Any]:
    logger.error("event=internal_error error=%r", error)
    return {"error": "internal error: see the service's log"}
