"""The monitor's door: what it has found, and the operator's reset."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from models.errors import Forbidden
from service.body import read_body
from service.http_locks import RESET
from service.json_fields import check_fields, field, parse_object
from service.repository import Repository
from service.settings import Settings

STATUS = "/monitor"


def monitor_routes(repository: Repository, settings: Settings) -> list[BaseRoute]:
    """`GET /monitor`: a list, an object per loaded model; `POST /monitor/reset`: of one model."""

    async def status(_: Request) -> Response:
        loaded = [model.name for model in repository.index() if model.version]
        return JSONResponse([repository.model(name).monitor.status() for name in loaded])

    async def reset(request: Request) -> Response:
        if not settings.repository_calls:
            raise Forbidden(
                "a fallback is not ended by clients here: start the server with "
                "OFFRAMP_REPOSITORY_CALLS=true to allow it"
            )
        body = await read_body(request, settings.max_body_bytes)
        document = parse_object(body) if body.strip() else {}
        check_fields(document, ("model",), "body")
        name = field(document, "model", str, "body")
        monitor = repository.model(name or repository.default).monitor
        monitor.reset()
        return JSONResponse(monitor.status())

    return [
        Route(STATUS, status, methods=["GET"]),
        Route(RESET, reset, methods=["POST"]),
    ]
