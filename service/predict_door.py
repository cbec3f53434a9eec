"""The friendly door: `POST /predict` with texts, images or numbers, answered with label names."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any
from weakref import WeakKeyDictionary

from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import BaseRoute, Route

from models.encoding import RawRows
from models.errors import InvalidInput
from models.manifest import Manifest
from service.body import read_body
from service.dataplane import Dataplane
from service.line_stream import LineStream, while_connected
from service.options import Options
from service.prediction import Prediction
from service.repository import Repository
from service.schema import (
    describe_mismatch,
    options_of,
    raw_rows,
    refuse_unknown,
    request_model,
    response_body,
    row_bodies,
)
from service.settings import Settings
from service.statuses import message_of


def predict_routes(repository: Repository, settings: Settings) -> list[BaseRoute]:
    """`POST /predict`, for the model that is meant when none is named."""
    schemas: WeakKeyDictionary[Dataplane, Any] = WeakKeyDictionary()

    async def predict(request: Request) -> Any:
        plane = repository.model(repository.default)
        if plane not in schemas:
            schemas[plane] = request_model(plane.manifest, settings.max_rows)
        with plane.counted():
            parsed = _parsed(await read_body(request, settings.max_body_bytes), schemas[plane])
            rows = raw_rows(parsed.rows, plane.manifest)
        options = options_of(parsed)
        if parsed.stream:
            return await _stream(request, plane, rows, options)
        prediction = await while_connected(request.receive, plane.predict(rows, options))
        return JSONResponse(response_body(prediction, plane.manifest))

    return [Route("/predict", predict, methods=["POST"])]


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
        except Exception as error:
            yield _line({"error": message_of(error)})


def _row_lines(part: Prediction, manifest: Manifest) -> bytes:
    places = part.routed.rows.tolist()
    bodies = row_bodies(part, manifest)
    return b"".join(
        _line({"row": place, **body}) for place, body in zip(places, bodies, strict=True)
    )


def _line(document: dict[str, Any]) -> bytes:
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
