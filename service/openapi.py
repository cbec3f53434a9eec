"""The HTTP API of one model as an OpenAPI 3.1 document, for people and for client generators.

`POST /predict` is described in full, after the bundle's own rows, labels and exits. The routes of
the Open Inference Protocol have their own specification: https://github.com/kserve/open-inference-protocol.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from models.manifest import Manifest
from service.multipart import IMAGES
from service.openapi_models import Error, Live, PredictResponse, Ready, Stats, StreamedRow
from service.options import LONGEST_DEADLINE_MS, PRIORITIES
from service.settings import Settings

REFERENCE = "#/components/schemas/{model}"
JSON = "application/json"
TOO_LARGE = 2.0**128 - 2.0**103
"""What is nearer to zero is rounded to a float32, this to infinity."""
DESCRIPTIONS = {
    400: "The request can never be answered as it is; the message says what to change.",
    401: "A key is missing, or not known.",
    403: "The key does not allow this.",
    413: "The body has more bytes than the service takes.",
    429: "No room for the request now; it may succeed after the time in Retry-After.",
    503: "The service is starting or stopping.",
    504: "The deadline passed before a row had any answer.",
}
LOCKED = (401, 403)
COMES_BACK = (429, 503)
"""Statuses that say when to try again."""


def describe(
    manifest: Manifest, request: type[BaseModel], settings: Settings, named: bool = False
) -> dict[str, Any]:
    """The document.

    Parameters
    ----------
    request : the pydantic model of a JSON request, see `service.schema.request_model`
    named : whether requests have to name the model
    """
    locked = settings.keys_file is not None
    document: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {
            "title": f"offramp: {manifest.name}",
            "version": manifest.digest,
            "description": manifest.certificate.sentence,
        },
        "servers": [{"url": "/"}],
        "paths": {
            "/predict": {"post": _predict(manifest, settings, locked)},
            "/stats": {"get": _stats(locked)},
            "/v2/health/live": {"get": _health("live", "Whether the server runs.", "Live")},
            "/v2/health/ready": {"get": _health("ready", "Whether all models answer.", "Ready")},
        },
        "components": {"schemas": _schemas(manifest, request, settings)},
    }
    if locked:
        document["security"] = [{"key": []}]
        document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    if named:
        means = {"name": "model", "in": "query", "schema": {"const": manifest.name}}
        document["paths"]["/predict"]["post"]["parameters"] = [{**means, "required": True}]
    return document


def _predict(manifest: Manifest, settings: Settings, locked: bool) -> dict[str, Any]:
    content: dict[str, Any] = {JSON: _referred("PredictRequest")}
    if manifest.preprocessing.kind == "image":
        content["multipart/form-data"] = {
            **_referred("PredictForm"),
            "encoding": {IMAGES[0]: {"contentType": "image/*"}},
        }
    # an error in the middle of a stream has no status of its own any more
    lines = [_referred(name)["schema"] for name in ("StreamedRow", "Error")]
    return {
        "operationId": "predict",
        "summary": "Answer each row at the first exit that is sure enough.",
        "description": f"At most {settings.max_rows} rows and {settings.max_body_bytes} bytes.",
        "requestBody": {"required": True, "content": content},
        "responses": {
            "200": {
                "description": "Every row's labels, exit and score.",
                "content": {
                    JSON: _referred("PredictResponse"),
                    "application/x-ndjson": {"schema": {"oneOf": lines}},
                },
            },
            **_errors((400, 413, 429, 503, 504, *(LOCKED if locked else ()))),
        },
    }


def _stats(locked: bool) -> dict[str, Any]:
    summary = "Rows answered, exits taken and latency since the model was loaded."
    statuses = (429, 503, *(LOCKED if locked else ()))
    return {
        "operationId": "stats",
        "summary": summary,
        "responses": {"200": _ok(summary, "Stats"), **_errors(statuses)},
    }


def _health(operation: str, summary: str, model: str) -> dict[str, Any]:
    return {
        "operationId": operation,
        "summary": summary,
        "security": [],
        "responses": {"200": _ok(summary, model), **_errors((503,))},
    }


def _ok(description: str, model: str) -> dict[str, Any]:
    return {"description": description, "content": {JSON: _referred(model)}}


def _referred(name: str) -> dict[str, Any]:
    return {"schema": {"$ref": REFERENCE.format(model=name)}}


def _errors(statuses: Iterable[int]) -> dict[str, Any]:
    responses: dict[str, Any] = {}
    for status in sorted(statuses):
        response = _ok(DESCRIPTIONS[status], "Error")
        if status in COMES_BACK:
            seconds = {"description": "Seconds.", "schema": {"type": "integer", "minimum": 1}}
            response["headers"] = {"Retry-After": seconds}
        responses[str(status)] = response
    return responses


def _schemas(manifest: Manifest, request: type[BaseModel], settings: Settings) -> dict[str, Any]:
    models = (request, PredictResponse, StreamedRow, Stats, Live, Ready, Error)
    _, definitions = models_json_schema(
        [(model, "validation") for model in models], ref_template=REFERENCE
    )
    schemas: dict[str, Any] = definitions["$defs"]
    wanted = schemas["PredictRequest"]
    wanted["additionalProperties"] = False
    properties = wanted["properties"]
    options = _options(manifest, settings)
    for name, option in options.items():
        properties[name] |= option
    _describe_rows(properties["rows"]["items"], manifest)
    if manifest.preprocessing.kind == "image":
        schemas["PredictForm"] = _form(options, settings)
    return schemas


def _options(manifest: Manifest, settings: Settings) -> dict[str, Any]:
    """What the options may be, narrower than their types."""
    depth = manifest.depth
    exits = [depth] if settings.mode == "monolith" else [*range(1, depth + 1)]
    policies = ["certified", "full", *(f"exit:{number}" for number in exits)]
    number = {"type": "integer", "minimum": exits[0], "maximum": depth}
    span = {"type": "number", "exclusiveMinimum": 0, "maximum": LONGEST_DEADLINE_MS}
    nothing = {"type": "null"}
    return {
        "policy": {"enum": policies},
        "max_exit": {"anyOf": [number, nothing]},
        "deadline_ms": {"anyOf": [span, nothing]},
        "priority": {"enum": [*PRIORITIES]},
        "all_exits": {},
        "stream": {},
    }


def _describe_rows(row: dict[str, Any], manifest: Manifest) -> None:
    """What is known of a row beside its type."""
    if manifest.preprocessing.kind == "image":
        row |= {"contentEncoding": "base64", "contentMediaType": "image/*"}
    if manifest.preprocessing.kind == "numbers":
        while row["type"] == "array":
            row = row["items"]
        row |= {"exclusiveMinimum": -TOO_LARGE, "exclusiveMaximum": TOO_LARGE}


def _form(options: dict[str, Any], settings: Settings) -> dict[str, Any]:
    """The same request as a form: image files, and options as texts."""
    files = {
        "type": "array",
        "items": {"type": "string", "format": "binary"},
        "minItems": 1,
        "maxItems": settings.max_rows,
    }
    texts = {
        name: (option["anyOf"][0] if "anyOf" in option else option)
        for name, option in options.items()
    }
    flag = {"type": "boolean"}
    return {
        "type": "object",
        "properties": {IMAGES[0]: files, **texts, "all_exits": flag, "stream": flag},
        "required": [IMAGES[0]],
        "additionalProperties": False,
    }
