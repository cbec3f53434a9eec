from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator

import grpc
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.testclient import TestClient
from tritonclient.grpc import service_pb2 as pb

from models.errors import Overloaded
from service.dataplane import Dataplane
from service.engine import Engine
from service.log_lines import event_line
from tests.service.conftest import app_over
from tests.service.grpc_door import Stub, grpc_door, message, over
from tests.service.logged_lines import LoggedLines, logged_lines

WORD = re.compile(r"""(\w+)=('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|[^\s'"=]+)(?: |$)""")


def parsed(line: str) -> dict[str, str]:
    """A line's values by their keys."""
    found = list(WORD.finditer(line))
    assert "".join(match[0] for match in found) == line
    return {
        match[1]: ast.literal_eval(match[2]) if match[2][0] in "'\"" else match[2]
        for match in found
    }


@given(st.dictionaries(st.sampled_from(["a", "b", "c"]), st.text(min_size=1, max_size=128)))
def test_what_is_written_can_be_read_again(values: dict[str, str]) -> None:
    line = event_line("some", **values)
    assert parsed(line) == {"event": "some", **values}
    assert line.isascii()
    assert line.isprintable()


@given(st.text(min_size=129))
def test_no_value_is_long(value: str) -> None:
    found = parsed(event_line("some", a=value))["a"]
    assert found == f"{value[:125]}..."


@pytest.fixture
def logged() -> Iterator[LoggedLines]:
    with logged_lines() as logged:
        yield logged


def test_every_request_is_a_line_where_that_is_asked_for(
    dataplane: Dataplane, rows: np.ndarray, logged: LoggedLines
) -> None:
    client = TestClient(app_over(dataplane, access_log=True))
    headers = {"x-request-id": "mine"}
    body = {"rows": rows[:9].tolist()}
    answer = client.post("/predict", json=body, headers=headers)
    client.post("/predict", json={**body, "stream": True}, headers=headers)
    client.post(f"/v2/models/{dataplane.name}/infer", content=b"{", headers=headers)
    client.get("/v2/models/a%20b%0A'c%22/ready", headers=headers)
    for silent in ("/v2/health/live", "/metrics", "/ui", "/ui/app.js"):
        client.get(silent)
    left = Counter(row["exit"] for row in answer.json()["rows"])
    exits = ",".join(f"{number}:{count}" for number, count in sorted(left.items()))
    found = [parsed(line) for line in logged.lines("request", 4)]
    milliseconds = [float(line.pop("ms")) for line in found]
    assert milliseconds[0] >= answer.json()["milliseconds"] - 0.05
    every = {"event": "request", "request_id": "mine"}
    answered = {"model": dataplane.name, "rows": "9", "exits": exits, "status": "200"}
    bad = {"model": dataplane.name, "status": "400", "reason": "invalid_input"}
    assert found == [
        {**every, "door": "predict", "path": "/predict", **answered},
        {**every, "door": "predict", "path": "/predict", **answered},
        {**every, "door": "oip", "path": f"/v2/models/{dataplane.name}/infer", **bad},
        {
            **every,
            "door": "oip",
            "path": "/v2/models/a b\n'c\"/ready",
            "status": "404",
            "reason": "not_found",
        },
    ]


def test_every_request_over_grpc_is_a_line_where_that_is_asked_for(
    dataplane: Dataplane, rows: np.ndarray, logged: LoggedLines
) -> None:
    stream = [message(dataplane, rows[:2]), message(dataplane, rows[:3])]
    with (
        grpc_door(over(dataplane), access_log=True) as door,
        grpc.insecure_channel(door.address) as channel,
    ):
        stub = Stub(channel)
        assert [*stub.ModelStreamInfer(iter(stream), metadata=(("x-request-id", "mine"),))]
        with pytest.raises(grpc.RpcError):
            stub.ModelInfer(message(dataplane, rows[:1], policy="fast"))
        assert stub.ServerReady(pb.ServerReadyRequest()).ready
        found = [parsed(line) for line in logged.lines("request", 3)]
    assert [line["request_id"] for line in found[:2]] == ["mine", "mine"]
    told = [(line["path"], line["status"], line.get("rows")) for line in found]
    assert sorted(told[:2]) == [("ModelStreamInfer", "OK", "2"), ("ModelStreamInfer", "OK", "3")]
    assert told[2:] == [("ModelInfer", "INVALID_ARGUMENT", None)]


def test_by_default_nothing_is_said_of_answers_and_refusals(
    dataplane: Dataplane,
    rows: np.ndarray,
    logged: LoggedLines,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    client, body = TestClient(app_over(dataplane)), {"rows": rows[:1].tolist()}
    assert client.post("/predict", json=body).status_code == 200
    assert client.post("/predict", json={}).status_code == 400

    async def refuse(*_: object) -> None:
        raise Overloaded("the queue is full")

    monkeypatch.setattr(Engine, "run", refuse)
    assert [client.post("/predict", json=body).status_code for _ in range(3)] == [429] * 3
    assert logged.records == []
