from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.http as triton_http
from starlette.testclient import TestClient
from tritonclient.utils import InferenceServerException

from models.bundle import Bundle
from models.errors import Overloaded
from models.runtime import StageRuntime
from service.dataplane import Dataplane
from service.engine import Engine
from service.locks import Locks
from service.request_ids import HEADER, request_id
from service.settings import Settings
from tests.live_server import live_server
from tests.service.conftest import app_over, cold_dataplane
from tests.service.grpc_door import Stub, grpc_door, message, numbers, over
from tests.service.logged_lines import LoggedLines, logged_lines
from tests.small_bundles import WIDTH, small_bundle

MADE = re.compile("[0-9a-f]{16}")
GOOD = ["a", "7", "5f0c-11:aa.B_9", "x" * 128]
BAD = ["", "x" * 129, "a b", "a/b", 'a"b', "a,b", "a=b", "a\n", "aé", "a%s", "٣"]


@pytest.fixture
def logged() -> Iterator[LoggedLines]:
    with logged_lines() as logged:
        yield logged


@pytest.mark.parametrize("sent", GOOD)
def test_the_id_of_the_caller_is_kept(sent: str) -> None:
    assert request_id(sent) == sent


@pytest.mark.parametrize("sent", [None, *BAD])
def test_an_id_is_made_where_none_can_be_used(sent: str | None) -> None:
    made = {request_id(sent) for _ in range(1000)}
    assert len(made) == 1000
    assert all(map(MADE.fullmatch, made))


def ask(client: TestClient, path: str, sent: str = "mine", **options: Any) -> Any:
    method = "POST" if options else "GET"
    return client.request(method, path, headers={HEADER: sent}, **options)


def test_every_answer_over_http_has_the_id_of_its_request(
    client: TestClient, dataplane: Dataplane, rows: np.ndarray
) -> None:
    name = dataplane.name
    answers = [
        ask(client, "/predict", json={"rows": rows[:1].tolist()}),
        ask(client, "/predict", json={"rows": rows[:2].tolist(), "stream": True}),
        ask(client, "/predict", json={}),
        ask(client, "/predict"),
        ask(client, "/predict", content=b" " * (2**20 + 1)),
        ask(client, f"/v2/models/{name}"),
        ask(client, f"/v2/models/{name}/infer", content=b"{"),
        ask(client, f"/v2/repository/models/{name}/load", content=b""),
        ask(client, "/v2/models/none"),
        ask(client, "/v2/logging"),
        ask(client, "/v2/health/ready"),
        ask(client, "/metrics"),
        ask(client, "/ui"),
        ask(client, "/ui/nothing"),
        ask(client, "/nowhere"),
    ]
    statuses = [answer.status_code for answer in answers]
    assert statuses == [200, 200, 400, 405, 413, 200, 400, 403, 404, 501, 200, 200, 200, 404, 404]
    for answer in answers:
        assert answer.headers.get_list(HEADER) == ["mine"]
        if answer.status_code >= 400:
            assert answer.json()["request_id"] == "mine"


def test_an_id_that_is_no_good_is_not_sent_back(client: TestClient) -> None:
    for sent in ("a b", "x" * 129, "<script>"):
        answer = ask(client, "/nowhere", sent)
        assert MADE.fullmatch(answer.headers[HEADER])
        assert answer.json()["request_id"] == answer.headers[HEADER]


def test_refusals_of_locks_and_of_a_cold_server_have_their_id(
    bundle: Bundle, tmp_path: Path
) -> None:
    keys = tmp_path / "keys"
    keys.write_text("k" * 32)
    plane = cold_dataplane(bundle)
    with TestClient(app_over(plane, keys_file=keys)) as client:
        locked = ask(client, "/predict", json={})
    with TestClient(app_over(plane)) as client:
        cold = ask(client, "/v2/health/ready")
    plane.close()
    assert [locked.status_code, cold.status_code] == [401, 503]
    for answer in (locked, cold):
        assert (answer.headers[HEADER], answer.json()["request_id"]) == ("mine", "mine")


def fail(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    async def break_down(*_: object) -> None:
        raise error

    monkeypatch.setattr(Engine, "run", break_down)


def test_an_internal_error_has_its_id_in_the_answer_and_in_the_log(
    client: TestClient,
    rows: np.ndarray,
    monkeypatch: pytest.MonkeyPatch,
    logged: LoggedLines,
) -> None:
    fail(monkeypatch, RuntimeError("broken"))
    answer = ask(client, "/predict", json={"rows": rows[:1].tolist()})
    assert answer.status_code == 500
    assert (answer.headers[HEADER], answer.json()["request_id"]) == ("mine", "mine")
    (record,) = logged.events("internal_error", 1)
    line = "event=internal_error error=\"RuntimeError('broken')\" request_id=mine"
    assert record.getMessage() == line
    assert record.exc_info


@pytest.fixture
def faulty(monkeypatch: pytest.MonkeyPatch) -> None:
    """No row can be computed by stage 2, but for the probe."""
    real = StageRuntime.run

    def run(self: StageRuntime, stage: int, carry: Any) -> Any:
        if stage == 2 and carry[0].any():
            raise RuntimeError("cannot be computed")
        return real(self, stage, carry)

    monkeypatch.setattr(StageRuntime, "run", run)


@pytest.mark.usefixtures("faulty")
def test_a_row_that_fails_in_a_lane_is_logged_with_the_id_of_its_request(
    client: TestClient, rows: np.ndarray, logged: LoggedLines
) -> None:
    asked = {"rows": rows[:9].tolist(), "policy": "full"}
    whole = ask(client, "/predict", "first", json=asked)
    assert (whole.status_code, whole.json()["request_id"]) == (400, "first")
    streamed = ask(client, "/predict", "second", json={"rows": rows[:40].tolist(), "stream": True})
    assert streamed.headers[HEADER] == "second"
    assert json.loads(streamed.text.splitlines()[-1])["request_id"] == "second"
    failed = logged.events("row_failed", 2)
    told = [(record.threadName, record.getMessage().split()[-1]) for record in failed]
    assert told == [("lane-0", "request_id=first"), ("lane-0", "request_id=second")]


@pytest.fixture(scope="module")
def stub(dataplane: Dataplane) -> Iterator[Any]:
    with (
        grpc_door(over(dataplane)) as door,
        grpc.insecure_channel(door.address) as channel,
    ):
        yield Stub(channel)


def id_in(metadata: Any) -> list[str]:
    return [value for key, value in metadata if key == HEADER]


def test_a_grpc_call_ends_with_the_id_of_its_request(
    stub: Any, dataplane: Dataplane, rows: np.ndarray
) -> None:
    request, sent = message(dataplane, rows[:1]), ((HEADER, "mine"),)
    answer, call = stub.ModelInfer.with_call(request, metadata=sent)
    assert answer.outputs
    assert id_in(call.trailing_metadata()) == ["mine"]
    _, call = stub.ModelInfer.with_call(request, metadata=((HEADER, "a b"),))
    assert MADE.fullmatch(*id_in(call.trailing_metadata()))
    _, call = stub.ModelInfer.with_call(request)
    assert MADE.fullmatch(*id_in(call.trailing_metadata()))


def test_a_grpc_call_that_fails_ends_with_its_id(
    stub: Any,
    dataplane: Dataplane,
    rows: np.ndarray,
    monkeypatch: pytest.MonkeyPatch,
    logged: LoggedLines,
) -> None:
    bad = message(dataplane, rows[:1], policy="fast")
    with pytest.raises(grpc.RpcError) as caught:
        stub.ModelInfer(bad, metadata=((HEADER, "mine"),))
    assert id_in(caught.value.trailing_metadata()) == ["mine"]
    assert "mine" not in caught.value.details()
    fail(monkeypatch, Overloaded("full"))
    with pytest.raises(grpc.RpcError) as caught:
        stub.ModelInfer(message(dataplane, rows[:1]), metadata=((HEADER, "mine"),))
    assert caught.value.trailing_metadata() == (("retry-after", "1"), (HEADER, "mine"))
    fail(monkeypatch, RuntimeError("broken"))
    with pytest.raises(grpc.RpcError) as caught:
        stub.ModelInfer(message(dataplane, rows[:1]), metadata=((HEADER, "mine"),))
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    assert id_in(caught.value.trailing_metadata()) == ["mine"]
    (record,) = logged.events("internal_error", 1)
    assert record.getMessage().endswith(" request_id=mine")


def test_a_grpc_stream_begins_with_its_id(
    stub: Any, dataplane: Dataplane, rows: np.ndarray
) -> None:
    requests = [message(dataplane, rows[:2]), message(dataplane, rows[:2], policy="fast")]
    answers = stub.ModelStreamInfer(iter(requests), metadata=((HEADER, "mine"),))
    assert id_in(answers.initial_metadata()) == ["mine"]
    assert len([answer for answer in answers if answer.error_message]) == 1
    assert id_in(answers.trailing_metadata()) == ["mine"]


def test_a_grpc_call_that_is_locked_out_has_its_id(
    dataplane: Dataplane, rows: np.ndarray, tmp_path: Path
) -> None:
    (tmp_path / "keys").write_text("k" * 32)
    locks = Locks(Settings(keys_file=tmp_path / "keys"))
    with (
        grpc_door(over(dataplane), locks=locks) as door,
        grpc.insecure_channel(door.address) as channel,
        pytest.raises(grpc.RpcError) as caught,
    ):
        Stub(channel).ModelInfer(message(dataplane, rows[:1]), metadata=((HEADER, "mine"),))
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert id_in(caught.value.trailing_metadata()) == ["mine"]


def test_tritonclient_sends_its_id_as_a_header(
    dataplane: Dataplane, rows: np.ndarray, logged: LoggedLines
) -> None:
    with (
        grpc_door(over(dataplane), access_log=True) as door,
        triton.InferenceServerClient(door.address) as client,
    ):
        client.infer(dataplane.name, numbers(dataplane, rows[:1]), headers={HEADER: "mine"})
        (line,) = logged.lines("request", 1)
    assert "request_id=mine door=grpc path=ModelInfer" in line


def test_both_ports_of_a_server_send_ids_back_and_log_them(
    tmp_path: Path, logged: LoggedLines
) -> None:
    small = small_bundle(tmp_path / "bundle", "numbers")
    row = np.zeros((1, WIDTH), np.float32)
    with live_server(small, access_log=True) as server:
        url = f"http://{server.http}"
        body = {"rows": row.tolist()}
        whole = httpx.post(f"{url}/predict", json=body, headers={HEADER: "first"})
        with triton_http.InferenceServerClient(server.http) as client:
            sent = triton_http.InferInput("x", row.shape, "FP32")
            sent.set_data_from_numpy(row)
            assert client.infer("small-numbers", [sent], headers={HEADER: "second"})
            with pytest.raises(InferenceServerException, match="no model 'none'"):
                client.infer("none", [sent], headers={HEADER: "third"})
        sent = triton.InferInput("x", row.shape, "FP32")
        sent.set_data_from_numpy(row)
        with triton.InferenceServerClient(server.grpc) as client:
            client.infer("small-numbers", [sent], headers={HEADER: "fourth"})
        lines = logged.lines("request", 4)
    assert whole.headers[HEADER] == "first"
    ids = [line.split()[1] for line in lines]
    assert ids == [f"request_id={name}" for name in ("first", "second", "third", "fourth")]
