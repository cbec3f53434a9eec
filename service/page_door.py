"""The playground: the page at `/ui`, the facts it shows, and `GET /stats`."""

from __future__ import annotations

from pathlib import Path
from time import monotonic

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.staticfiles import StaticFiles

from service.page_facts import live_facts, model_facts
from service.repository import Repository
from service.settings import Settings

FOLDER = Path(__file__).parent / "page"
PAGE = "index.html"
HEADERS = {
    "Cache-Control": "no-cache",  # asked for again every time, and sent when it has changed
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data: blob:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def page_routes(repository: Repository, settings: Settings) -> list[BaseRoute]:
    """`GET /ui` and what lies below it, and `GET /stats`, for the default model."""
    started = monotonic()
    files = StaticFiles(directory=FOLDER)

    async def model(_: Request) -> Response:
        facts = model_facts(repository.model(repository.default), settings)
        return JSONResponse(facts, headers=HEADERS)

    async def examples(_: Request) -> Response:
        content = repository.model(repository.default).examples
        return Response(content, media_type="application/json", headers=HEADERS)

    async def stats(_: Request) -> Response:
        facts = live_facts(repository.model(repository.default))
        return JSONResponse({**facts, "uptime_seconds": monotonic() - started}, headers=HEADERS)

    async def file(name: str, request: Request) -> Response:
        response = await files.get_response(name, request.scope)
        response.headers.update(HEADERS)
        return response

    async def page(request: Request) -> Response:
        return await file(PAGE, request)

    async def asset(request: Request) -> Response:
        name = request.path_params["asset"]
        if name == PAGE:  # its links count from `/ui`
            raise HTTPException(404)
        return await file(name, request)

    return [
        Route("/ui/model", model),
        Route("/ui/examples", examples),
        Route("/stats", stats),
        Route("/ui", page),
        Route("/ui/{asset}", asset),
    ]
