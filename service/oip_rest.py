"""The Open Inference Protocol over REST, with Triton's extensions that `oip_metadata` lists."""

from __future__ import annotations

from typing import Any

from pydantic_core import to_json
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from models.errors import Forbidden, Unavailable, Unsupported
from service.body import read_body
from service.compression import accepted, compress
from service.dataplane import Dataplane
from service.inference import infer
from service.line_stream import while_connected
from service.message_json import message_document
from service.oip_config import model_config
from service.oip_json import HEADER_LENGTH, parse_request, response_body
from service.oip_metadata import (
    EXTENSIONS,
    PLATFORM,
    SERVER_NAME,
    TensorInfo,
    input_specs,
    output_specs,
    server_version,
)
from service.oip_repository_json import asks_for_ready, check_change
from service.oip_statistics import model_statistics
from service.repository import Repository
from service.settings import Settings

WORTH_COMPRESSING = 4096
"""Bytes; a smaller answer fits into few packets as it is."""
_MODEL = "/v2/models/{model}"
_VERSION = "/v2/models/{model}/versions/{version}"
_REPOSITORY_MODEL = "/v2/repository/models/{model}"
_NOT_SERVED = (
    "/v2/systemsharedmemory/{rest:path}",
    "/v2/cudasharedmemory/{rest:path}",
    "/v2/trace/setting",
    "/v2/models/{model}/trace/setting",
    "/v2/logging",
)


def oip_routes(repository: Repository, settings: Settings) -> list[BaseRoute]:
    """All routes below `/v2`."""
    door = _Door(repository, settings)
    of_a_model = [
        Route(prefix + path, endpoint, methods=[method])
        for method, path, endpoint in (
            ("POST", "/infer", door.infer),
            ("GET", "", door.model_metadata),
            ("GET", "/ready", door.model_ready),
            ("GET", "/config", door.model_config),
            ("GET", "/stats", door.model_statistics),
        )
        for prefix in (_MODEL, _VERSION)
    ]
    return [
        Route("/v2/models/stats", door.all_statistics, methods=["GET"]),
        *of_a_model,
        Route("/v2", door.server_metadata, methods=["GET"]),
        Route("/v2/health/live", door.server_live, methods=["GET"]),
        Route("/v2/health/ready", door.server_ready, methods=["GET"]),
        Route("/v2/repository/index", door.index, methods=["GET", "POST"]),
        Route(f"{_REPOSITORY_MODEL}/load", door.load, methods=["POST"]),
        Route(f"{_REPOSITORY_MODEL}/unload", door.unload, methods=["POST"]),
        *(Route(path, _not_served, methods=["GET", "POST"]) for path in _NOT_SERVED),
    ]


class _Door:
    """The endpoints; what they raise is told by the application's handlers."""

    def __init__(self, repository: Repository, settings: Settings) -> None:
        self._repository = repository
        self._settings = settings

    async def infer(self, request: Request) -> Response:
        name, version = _named(request)
        plane = self._repository.model(name, version)
        with plane.counted():
            body = await read_body(request, self._settings.max_body_bytes)
            asked = parse_request(body, request.headers.get(HEADER_LENGTH))
        with self._repository.using(name, version) as plane:  # it may be another one meanwhile
            tensors = await while_connected(request.receive, infer(plane, asked.request))
        answer, json_length = response_body(asked, tensors, plane.name, plane.version)
        return _answer(answer, json_length, request.headers.get("accept-encoding", ""))

    async def server_live(self, _: Request) -> Response:
        return _json({"live": True})

    async def server_ready(self, _: Request) -> Response:
        if self._repository.reason:
            raise Unavailable(self._repository.reason)
        notes = {state.name: state.note for state in self._repository.index() if state.note}
        return _json({"ready": True, **({"notes": notes} if notes else {})})

    async def server_metadata(self, _: Request) -> Response:
        return _json(
            {"name": SERVER_NAME, "version": server_version(), "extensions": list(EXTENSIONS)}
        )

    async def model_ready(self, request: Request) -> Response:
        plane = self._repository.model(*_named(request))
        if reason := self._repository.reason_of(plane):
            raise Unavailable(reason)
        return _json({"name": plane.name, "ready": True})

    async def model_metadata(self, request: Request) -> Response:
        plane = self._repository.model(*_named(request))
        return _json(
            {
                "name": plane.name,
                "versions": [plane.version],
                "platform": PLATFORM,
                "inputs": [_described(tensor) for tensor in input_specs(plane.manifest)],
                "outputs": [_described(tensor) for tensor in output_specs(plane.manifest)],
            }
        )

    async def model_config(self, request: Request) -> Response:
        plane = self._repository.model(*_named(request))
        return _json(message_document(model_config(plane)))

    async def model_statistics(self, request: Request) -> Response:
        return _statistics([self._repository.model(*_named(request))])

    async def all_statistics(self, _: Request) -> Response:
        loaded = [model.name for model in self._repository.index() if model.version]
        return _statistics([self._repository.model(name) for name in loaded])

    async def index(self, request: Request) -> Response:
        body = await read_body(request, self._settings.max_body_bytes)
        only_ready = asks_for_ready(body)
        return _json(
            [
                {
                    "name": model.name,
                    "version": model.version,
                    "state": model.state,
                    "reason": model.told,
                }
                for model in self._repository.index()
                if model.state == "READY" or not only_ready
            ]
        )

    async def load(self, request: Request) -> Response:
        await self._check_change(request)
        await self._repository.load(request.path_params["model"])
        return Response()

    async def unload(self, request: Request) -> Response:
        await self._check_change(request)
        await self._repository.unload(request.path_params["model"])
        return Response()

    async def _check_change(self, request: Request) -> None:
        if not self._settings.repository_calls:
            raise Forbidden(
                "models are not loaded and unloaded by clients here: start the server with "
                "OFFRAMP_REPOSITORY_CALLS=true to allow it"
            )
        check_change(await read_body(request, self._settings.max_body_bytes))


def _named(request: Request) -> tuple[str, str]:
    """The model and the version in the path; the version is empty where none is named."""
    return request.path_params["model"], request.path_params.get("version", "")


def _described(tensor: TensorInfo) -> dict[str, Any]:
    return {"name": tensor.name, "datatype": tensor.datatype, "shape": tensor.shape}


async def _not_served(_: Request) -> Response:
    raise Unsupported("offramp has no shared memory, and neither trace nor log settings here")


def _statistics(planes: list[Dataplane]) -> Response:
    messages = map(model_statistics, planes)
    return _json({"model_stats": [message_document(message) for message in messages]})


def _json(document: Any) -> Response:
    return Response(to_json(document), media_type="application/json")


def _answer(body: bytes, json_length: int | None, accept_encoding: str) -> Response:
    """The answer to an inference, compressed where the client asks for it and it is worth it."""
    headers = {}
    if json_length is not None:
        headers[HEADER_LENGTH] = str(json_length)
    encoding = accepted(accept_encoding) if len(body) >= WORTH_COMPRESSING else None
    if encoding:
        body = compress(body, encoding)
        headers["Content-Encoding"] = encoding
    media_type = "application/json" if json_length is None else "application/octet-stream"
    return Response(body, headers=headers, media_type=media_type)
