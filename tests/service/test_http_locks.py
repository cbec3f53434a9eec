from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.testclient import TestClient
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocketDisconnect

from service.http import create_app
from service.http_locks import (
    DISCARDED_BYTES,
    HEALTH,
    METRICS,
    PAGE,
    RESET,
    LockedApp,
    ParallelCap,
    access_of,
)
from service.locks import Access, Locks
from service.metrics import Metrics
from service.repository import Repository
from service.settings import Settings

CLIENT = "key-of-a-client-1"
ADMIN = "key-of-an-operator"
LOAD = "/v2/repository/models/{name}/load"
UNLOAD = "/v2/repository/models/{name}/unload"
CHANGES = [
    re.compile(Route(path, lambda _: None).path_regex.pattern) for path in (LOAD, UNLOAD, RESET)
]
ROOTS = st.sampled_from(["", "/", "//", "/x", "/v2", "/v2/repository", "/livez", "/ui", "/metrics"])


def scope_of(path: str, root_path: str = "", **more: Any) -> Scope:
    headers = [(name.lower().encode(), value.encode()) for name, value in more.items()]
    return {
        "type": "http",
        "method": "POST",
        "path": path,
        "root_path": root_path,
        "headers": headers,
    }


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes


async def ask(app: ASGIApp, scope: Scope) -> Answer:
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    await app(scope, receive, send)
    headers = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return Answer(sent[0]["status"], headers, b"".join(m.get("body", b"") for m in sent[1:]))


@pytest.fixture(scope="module")
def locks(tmp_path_factory: pytest.TempPathFactory) -> Locks:
    return keyed(tmp_path_factory.mktemp("keys"))


def keyed(folder: Path) -> Locks:
    (folder / "keys").write_text(f"{CLIENT}\n")
    (folder / "admin_keys").write_text(f"{ADMIN}\n")
    return Locks(
        Settings(keys_file=folder / "keys", admin_keys_file=folder / "admin_keys", metrics_key=True)
    )


def served_routes() -> list[Any]:
    door = create_app(Repository([]), Metrics(), Settings(), Locks(Settings()))
    return door.app.routes


def test_every_route_has_its_lock() -> None:
    accesses = {
        route.path: access_of(scope_of(re.sub("{.*?}", "some", route.path)))
        for route in served_routes()
    }
    asked = {access: {p for p, a in accesses.items() if a is access} for access in Access}
    changes = {path for path in accesses if path.endswith(("/load", "/unload", "/reset"))}
    assert len(changes) == 3
    assert asked[Access.ADMIN] == changes
    assert asked[Access.METRICS] == {METRICS}
    assert asked[Access.OPEN] == {"/v2/health/live", "/v2/health/ready", "/ui"}


@given(spelling=st.sampled_from(CHANGES).flatmap(st.from_regex), root=ROOTS)
def test_whatever_routes_to_load_or_unload_is_a_repository_call(spelling: str, root: str) -> None:
    for path in (spelling, root + spelling):
        assert access_of(scope_of(path, root)) is Access.ADMIN


PIECES = st.sampled_from(
    [
        "/v2/repository/models/m",
        "/load",
        "/unload",
        "/index",
        "/v2/health/live",
        "/livez",
        "/metrics",
        "/ui",
        "/a.js",
        "/",
        "//",
        "/.",
        "/..",
        "%2F",
        "%0A",
        ";",
        "?",
        "/V2",
        "\n",
        "\r",
        "\x00",
    ]
)
WHOLE = st.sampled_from(CHANGES).flatmap(st.from_regex) | st.sampled_from(sorted(HEALTH))
SPELLINGS = st.tuples(ROOTS, st.lists(PIECES | WHOLE, max_size=6)).map(
    lambda parts: parts[0] + "".join(parts[1])
)


@given(path=SPELLINGS, root=ROOTS)
def test_no_spelling_gets_past_the_locks(path: str, root: str) -> None:
    """As it is served: BentoML's application around, with its own routes, and ours mounted."""
    reached: list[str] = []

    def endpoint(name: str) -> Callable[[Request], Awaitable[Response]]:
        async def answer(_: Request) -> Response:
            reached.append(name)
            return PlainTextResponse("")

        return answer

    class Recording:
        asked = Access.OPEN

        def check(self, access: Access, authorization: str | None) -> None:
            self.asked = access

    recording = Recording()
    paths = [LOAD, UNLOAD, METRICS, "/v2/health/live", "/v2/models/{name}", "/ui", "/ui/{asset}"]
    inner = Starlette(routes=[Route(p, endpoint(p), methods=["POST"]) for p in paths])
    outer = Starlette(
        routes=[
            Route("/livez", endpoint("/livez"), methods=["POST"]),
            Mount("/", LockedApp(inner, recording)),  # type: ignore[arg-type]
        ]
    )
    asyncio.run(ask(outer, scope_of(path, root)))
    for name in reached:
        if name in (LOAD, UNLOAD):
            assert recording.asked is Access.ADMIN
        elif recording.asked is Access.OPEN:
            assert name in {"/v2/health/live", "/livez", "/ui", "/ui/{asset}"}


@given(path=st.text(), root=ROOTS)
def test_little_is_open(path: str, root: str) -> None:
    if access_of(scope_of(path, root)) is Access.OPEN:
        inside = path.removeprefix(root)
        assert inside in HEALTH or PAGE.fullmatch(inside)


NEARLY_OPEN = [
    "/livez\n",
    "/LIVEZ",
    "//livez",
    "/livez/",
    "/livez/x",
    "/v2/health/live/",
    "/x/livez",
    "/metrics\n",
    "/ui/model",
    "/ui/examples",
    "/ui/model\n",
    "/ui/..%2fmodel.js",
    "/ui/a/b.js",
    "/ui/.js",
    "/ui/a.js\n",
    "/UI",
    "/ui//",
    "/stats",
    "/predict",
    "/openapi.json",
    "/docs.json",
    "/v2",
    "/v2/models/m/ready",
    "/v2/repository/index",
    "/",
    "",
]


@pytest.mark.parametrize("path", NEARLY_OPEN)
def test_what_is_near_to_something_open_asks_for_a_key(path: str) -> None:
    assert access_of(scope_of(path)) is Access.INFER


@pytest.mark.parametrize("path", ["/ui", "/ui/", "/ui/app.js", "/ui/w-by_depth.svg"])
def test_the_page_itself_is_open(path: str) -> None:
    assert access_of(scope_of(path)) is Access.OPEN


def test_refusals_are_json_with_the_way_on(locks: Locks) -> None:
    app = LockedApp(echo, locks)
    refused = asyncio.run(ask(app, scope_of("/predict")))
    assert refused.status == 401
    assert refused.headers["www-authenticate"] == "Bearer"
    assert json.loads(refused.body) == {"error": "found no key; send Authorization: Bearer <key>"}
    forbidden = asyncio.run(
        ask(app, scope_of("/v2/repository/models/m/load", Authorization=f"Bearer {CLIENT}"))
    )
    assert forbidden.status == 403
    assert "www-authenticate" not in forbidden.headers
    assert "admin key" in json.loads(forbidden.body)["error"]


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    await PlainTextResponse("answer")(scope, receive, send)


@pytest.mark.parametrize(
    ("path", "key", "status"),
    [
        ("/predict", CLIENT, 200),
        ("/predict", ADMIN, 200),
        ("/metrics", None, 401),
        ("/metrics", CLIENT, 200),
        ("/v2/health/live", None, 200),
        ("/ui", None, 200),
        ("/nowhere", None, 401),
        ("/v2/repository/models/m/load", ADMIN, 200),
        ("/v2/repository/models/m/load", None, 401),
    ],
)
def test_the_right_key_opens(locks: Locks, path: str, key: str | None, status: int) -> None:
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    assert TestClient(LockedApp(echo, locks)).post(path, headers=headers).status_code == status


def test_a_websocket_without_key_is_closed(locks: Locks) -> None:
    client = TestClient(LockedApp(echo, locks))
    with pytest.raises(WebSocketDisconnect), client.websocket_connect("/predict"):
        pass


@pytest.mark.parametrize(
    ("headers", "kept"),
    [
        ({}, True),
        ({"Content-Length": str(DISCARDED_BYTES)}, True),
        ({"Content-Length": str(DISCARDED_BYTES + 1)}, False),
        ({"Content-Length": "9" * 5000}, False),
        ({"Content-Length": "-1"}, False),
        ({"Transfer-Encoding": "chunked"}, False),
    ],
)
def test_a_long_body_that_is_refused_ends_its_connection(
    locks: Locks, headers: dict[str, str], kept: bool
) -> None:
    refused = asyncio.run(ask(LockedApp(echo, locks), scope_of("/predict", **headers)))
    assert refused.status == 401
    assert ("connection" not in refused.headers) == kept


class Held:
    """An application that answers when it is let go."""

    def __init__(self) -> None:
        self.waiting = 0
        self.go = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.waiting += 1
        try:
            await self.go.wait()
        finally:
            self.waiting -= 1
        if scope["path"] == "/fails":
            raise RuntimeError("as applications do")
        await echo(scope, receive, send)


@given(limit=st.integers(1, 5), asked=st.integers(1, 12))
def test_no_more_than_the_limit_are_answered_at_once(limit: int, asked: int) -> None:
    async def scenario() -> None:
        held = Held()
        app = ParallelCap(held, limit)
        asking = [asyncio.create_task(ask(app, scope_of("/predict"))) for _ in range(asked)]
        await asyncio.sleep(0)
        assert held.waiting == min(asked, limit)
        refused = [task.result() for task in asking if task.done()]
        assert len(refused) == max(0, asked - limit)
        assert all(answer.status == 429 for answer in refused)
        assert all(answer.headers["retry-after"] == "1" for answer in refused)
        held.go.set()
        answers = await asyncio.gather(*asking)
        assert [answer.status for answer in answers].count(200) == min(asked, limit)

    asyncio.run(scenario())


@pytest.mark.parametrize("ending", ["/answers", "/fails"])
async def test_places_are_given_back_however_a_request_ends(ending: str) -> None:
    held = Held()
    app = ParallelCap(held, limit=1)
    for _ in range(3):
        first = asyncio.create_task(ask(app, scope_of(ending)))
        await asyncio.sleep(0)
        assert (await ask(app, scope_of("/predict"))).status == 429
        held.go.set()
        await asyncio.gather(first, return_exceptions=True)
        held.go.clear()


async def test_a_request_that_is_cancelled_gives_its_place_back() -> None:
    held = Held()
    app = ParallelCap(held, limit=1)
    first = asyncio.create_task(ask(app, scope_of("/predict")))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    held.go.set()
    assert (await ask(app, scope_of("/predict"))).status == 200


async def test_health_and_metrics_pass_at_the_limit() -> None:
    held = Held()
    app = ParallelCap(held, limit=1)
    first = asyncio.create_task(ask(app, scope_of("/predict")))
    await asyncio.sleep(0)
    assert (await ask(app, scope_of("/ui"))).status == 429
    probes = [asyncio.create_task(ask(app, scope_of(path))) for path in sorted(HEALTH | {METRICS})]
    await asyncio.sleep(0)
    held.go.set()
    answers = await asyncio.gather(first, *probes)
    assert {answer.status for answer in answers} == {200}
