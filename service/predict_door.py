"""The friendly door: `POST /predict` with texts, images or numbers, answered with label names."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any
from weakref import WeakKeyDictionary

from pydantic_core import to_json
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from models.encoding import RawRows
from models.errors import InvalidInput
from models.manifest import Manifest
from service.body import read_body
from service.dataplane import Dataplane
from service.line_stream import LineStream, while_connected
from service.multipart import read_form
from service.openapi import describe
from service.options import Options
from service.prediction import Prediction
from service.repository import Repository
from service.schema import (
    from_json,
    from_texts,
    options_of,
    raw_rows,
    request_model,
    response_body,
    row_bodies,
)
from service.settings import Settings
from service.statuses import error_body, message_of

JSON = "application/json"
FORM = "multipart/form-data"
SENDS = {
    "numbers": '{"rows": [...]} with numbers',
    "text": '{"rows": ["a text"]}',
    "image": f"image files as {FORM}, one as image/*, or as base64 in " + '{"rows": [...]}',
}
"""What a model takes, by its kind of rows."""
MODEL = "model"
"""In the query: the model that is meant, where it is not the default one."""


def predict_routes(repository: Repository, settings: Settings) -> list[BaseRoute]:
    """`POST /predict`, and its description at `GET /openapi.json`; of one model each."""
    models: WeakKeyDictionary[Dataplane, Any] = WeakKeyDictionary()

    def named(request: Request) -> str:
        return request.query_params.get(MODEL, repository.default)

    def model_of(plane: Dataplane) -> Any:
        if plane not in models:
            models[plane] = request_model(plane.manifest, settings.max_rows)
        return models[plane]

    async def predict(request: Request) -> Any:
        name = named(request)
        with repository.model(name).counted():
            body = await read_body(request, settings.max_body_bytes)
        with repository.using(name) as plane:  # it may be another one meanwhile
            with plane.counted():
                rows, options, in_parts = await _parsed(request, body, model_of(plane), plane)
            if in_parts:
                return await _stream(request, plane, rows, options)
            prediction = await while_connected(request.receive, plane.predict(rows, options))
        content = to_json(response_body(prediction, plane.manifest))
        return Response(content, media_type=JSON)

    async def openapi(request: Request) -> Response:
        plane = repository.model(named(request))
        other = plane.name != repository.default
        return JSONResponse(describe(plane.manifest, model_of(plane), settings, other))

    return [
        Route("/predict", predict, methods=["POST"]),
        Route("/openapi.json", openapi, methods=["GET"]),
    ]


async def _parsed(
    request: Request, body: bytes, model: Any, plane: Dataplane
) -> tuple[RawRows, Options, bool]:
    """Rows, options, and whether to stream, in any of the forms that the model's rows may come in.

    The document itself is given up: thousands of numbers as objects would outlive their use.
    """
    kind = plane.manifest.preprocessing.kind
    media = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media in ("", JSON):
        parsed = from_json(body, model)
        return raw_rows(parsed.rows, plane.manifest), options_of(parsed), parsed.stream
    if kind == "image" and media == FORM:
        files, texts = await read_form(request.headers, body, plane.max_rows)
        fields = from_texts(texts)
        return files, options_of(fields), fields.stream
    if kind == "image" and media.startswith("image/"):
        texts = {name: text for name, text in request.query_params.items() if name != MODEL}
        fields = from_texts(texts)
        return [body], options_of(fields), fields.stream
    raise InvalidInput(
        f"content-type: found {media[:60]!r}, expected {JSON} (with curl: -H 'content-type: "
        f"{JSON}'); this model takes {SENDS[kind]}"
    )


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
            yield to_json(error_body(message_of(error))) + b"\n"


def _row_lines(part: Prediction, manifest: Manifest) -> bytes:
    places = part.routed.rows.tolist()
    bodies = row_bodies(part, manifest)
    version = manifest.version
    return b"".join(
        to_json({"row": place, "version": version, **body}) + b"\n"
        for place, body in zip(places, bodies, strict=True)
    )
