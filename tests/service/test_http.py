from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from models.bundle import Bundle
from models.errors import DeadlineExceeded, InvalidInput, Overloaded, Unavailable
from models.runtime import StageRuntime, at_exits
from service.dataplane import Dataplane
from tests.service.conftest import Gate, app_over, cold_dataplane, counted, serving


def predict(client: TestClient, rows: Any, **fields: Any) -> dict[str, Any]:
    response = client.post("/predict", json={"rows": rows, **fields})
    assert response.status_code == 200, response.text
    return response.json()


def refused(client: TestClient, content: bytes | str, status: int = 400) -> str:
    response = client.post("/predict", content=content)
    assert response.status_code == status, response.text
    assert list(response.json()) == ["error", "request_id"]
    return response.json()["error"]


def test_answers_are_those_of_the_offline_policy(
    client: TestClient, dataplane: Dataplane, runtime: StageRuntime, rows: np.ndarray
) -> None:
    sent = rows[:64]
    answers = runtime.all_exits((sent,))
    exits = dataplane.manifest.policy.route([exit_answers.score for exit_answers in answers])
    expected = at_exits(answers, exits)
    assert len(set(exits)) > 1
    body = predict(client, sent.tolist())
    assert (body["model"], body["version"]) == (dataplane.name, dataplane.version)
    names = np.array(dataplane.manifest.labels)
    for row, answer in enumerate(body["rows"]):
        assert answer["exit"] == exits[row]
        assert answer["exits"] == 4
        assert 0 < answer["milliseconds"] <= body["milliseconds"]
        assert answer["certified"] is True
        assert answer["score"] == pytest.approx(expected.score[row], abs=1e-4)
        assert list(answer["probabilities"].values()) == pytest.approx(
            expected.probabilities[row], abs=1e-4
        )
        listed = [label["name"] for label in answer["labels"]]
        assert set(listed) == set(names[expected.labels[row]])
        probabilities = [label["probability"] for label in answer["labels"]]
        assert probabilities == sorted(probabilities, reverse=True)


@pytest.mark.parametrize(
    ("policy", "exits", "certified"),
    [("full", {4}, True), ("exit:1", {1}, False), ("exit:4", {4}, True)],
)
def test_a_request_may_choose_its_policy(
    client: TestClient, rows: np.ndarray, policy: str, exits: set[int], certified: bool
) -> None:
    body = predict(client, rows[:8].tolist(), policy=policy)
    assert {row["exit"] for row in body["rows"]} == exits
    assert {row["certified"] for row in body["rows"]} == {certified}


def with_value(rows: np.ndarray, text: str) -> str:
    """A body whose third row holds `text` in the place of one number."""
    sent = rows[:4].copy()
    sent[2, 0, 5, 7] = 0.123456789
    return json.dumps({"rows": sent.tolist()}).replace("0.12345679104328156", text, 1)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("NaN", "finite number"),
        ("Infinity", "finite number"),
        ("-Infinity", "finite number"),
        ("1e999", "finite number"),
        ('"0.5"', "valid number"),
        ("true", "valid number"),
        ("null", "valid number"),
        ("[]", "valid number"),
    ],
)
def test_a_bad_value_is_named_with_its_place(
    client: TestClient, rows: np.ndarray, text: str, expected: str
) -> None:
    error = refused(client, with_value(rows, text))
    assert "rows[2][0][5][7]" in error
    assert expected in error


def test_a_number_too_large_for_the_model_is_refused(client: TestClient, rows: np.ndarray) -> None:
    error = refused(client, with_value(rows, "1e39"))
    assert "rows[2]: found inf at position [0, 5, 7]" in error


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("", ["body", "JSON"]),
        ("{", ["body", "JSON"]),
        ("[1]", ["body", "found [1]", "object"]),
        ("3", ["body", "found 3", "object"]),
        ("{}", ["rows", "missing"]),
        ('{"rows": 3}', ["rows", "found 3", "array"]),
        ('{"rows": []}', ["rows", "found 0", "at least 1"]),
        ('{"rows": [[[[0.5]]]]}', ["rows[0][0]", "found 1", "at least 32"]),
        ('{"rows": [[]], "extra": 1}', ["rows[0]", "found 0"]),
        ("[" * 10_000, ["body", "JSON"]),
        ('{"rows": ' + "[" * 10_000, ["body", "JSON"]),
        (b"\xff\xfe\x00", ["body", "JSON"]),
    ],
)
def test_a_bad_body_is_explained(client: TestClient, body: str | bytes, words: list[str]) -> None:
    error = refused(client, body)
    assert all(word in error for word in words), error
    assert len(error) < 300


@pytest.mark.parametrize("media_type", ["application/json", "Application/JSON; charset=utf-8", ""])
def test_json_may_say_that_it_is_json(
    client: TestClient, rows: np.ndarray, media_type: str
) -> None:
    content = json.dumps({"rows": rows[:1].tolist()})
    headers = {"content-type": media_type}
    assert client.post("/predict", content=content, headers=headers).status_code == 200


@pytest.mark.parametrize(
    "media_type", ["application/x-www-form-urlencoded", "multipart/form-data", "image/png", "x"]
)
def test_another_type_of_body_is_answered_with_the_right_one(
    client: TestClient, rows: np.ndarray, media_type: str
) -> None:
    content = json.dumps({"rows": rows[:1].tolist()})
    response = client.post("/predict", content=content, headers={"content-type": media_type})
    assert response.status_code == 400
    error = response.json()["error"]
    assert all(word in error for word in ("content-type", "application/json", "numbers")), error


def test_more_rows_than_the_limit_are_refused(client: TestClient, rows: np.ndarray) -> None:
    error = refused(client, json.dumps({"rows": np.zeros((65, 1, 32, 32)).tolist()}))
    assert "rows" in error
    assert "at most 64" in error


def test_an_unknown_field_is_named(client: TestClient, rows: np.ndarray) -> None:
    error = refused(client, json.dumps({"rows": rows[:1].tolist(), "polcy": "full"}))
    assert "polcy" in error


@pytest.mark.parametrize("policy", ["", "fast", "exit:0", "exit:5", "exit:-1", "exit:1e9"])
def test_an_unknown_policy_is_answered_with_the_known_ones(
    client: TestClient, rows: np.ndarray, policy: str
) -> None:
    error = refused(client, json.dumps({"rows": rows[:1].tolist(), "policy": policy}))
    assert all(word in error for word in ("policy", "certified", "full", "exit:<k>", "1 to 4"))


def test_a_body_over_the_limit_is_refused(client: TestClient) -> None:
    assert "1048576 bytes" in refused(client, b" " * (2**20 + 1), status=413)


def test_a_body_without_length_is_refused_when_it_grows_over_the_limit(
    client: TestClient,
) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(17):
            yield b" " * 65536

    response = client.post("/predict", content=chunks())
    assert response.status_code == 413


def test_unknown_paths_and_methods_answer_in_json(client: TestClient) -> None:
    assert client.get("/nowhere").json()["error"] == "Not Found"
    assert client.get("/predict").status_code == 405


@pytest.mark.parametrize("value", [1e38, -3.4e38])
def test_values_that_make_the_model_overflow_are_refused(
    client: TestClient, rows: np.ndarray, value: float
) -> None:
    sent = rows[:3].astype(float)
    sent[1] = value
    error = refused(client, json.dumps({"rows": sent.tolist()}))
    assert "no finite answer to the values of row 1" in error


@pytest.mark.parametrize(
    "body",
    [
        "{" + ",".join(f'"k{i}": 0' for i in range(60_000)) + ', "rows": [[[[0]]]]}',
        '{"rows": [' + ",".join(['"a"'] * 200_000) + "]}",
        '{"rows": [[[[' + ",".join(['"a"'] * 200_000) + "]]]]}",
        '{"rows": [], "' + "k" * 900_000 + '": 1}',
        '{"rows": [], "policy": "' + "k" * 900_000 + '"}',
    ],
    ids=["many fields", "many rows", "many values", "long field", "long policy"],
)
def test_a_body_full_of_mistakes_is_answered_with_the_first(client: TestClient, body: str) -> None:
    assert len(refused(client, body)) < 300


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=10,
)
any_client = settings(
    deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@any_client
@given(st.binary(max_size=60) | json_values | st.fixed_dictionaries({"rows": json_values}))
def test_nothing_a_client_sends_is_an_internal_error(client: TestClient, body: Any) -> None:
    content = body if isinstance(body, bytes) else json.dumps(body)
    assert 400 <= client.post("/predict", content=content).status_code < 500


@any_client
@given(
    place=st.tuples(st.integers(0, 1), st.integers(0, 31), st.integers(0, 31)), value=st.floats()
)
def test_no_value_in_a_well_formed_request_is_an_internal_error(
    client: TestClient, rows: np.ndarray, place: tuple[int, int, int], value: float
) -> None:
    sent = rows[:2].astype(float)
    sent[place[0], 0, place[1], place[2]] = value
    response = client.post("/predict", content=json.dumps({"rows": sent.tolist()}))
    assert response.status_code in (200, 400), response.text
    if response.status_code == 200:
        assert all(0 <= row["score"] <= 1 for row in response.json()["rows"])


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"deadline_ms": 0}, ["deadline_ms", "found 0", "3600000"]),
        ({"deadline_ms": -5.5}, ["deadline_ms", "found -5.5", "3600000"]),
        ({"deadline_ms": float("nan")}, ["deadline_ms", "found nan", "3600000"]),
        ({"deadline_ms": float("inf")}, ["deadline_ms", "found inf", "3600000"]),
        ({"deadline_ms": 3_600_001}, ["deadline_ms", "found 3600001", "one hour"]),
        ({"deadline_ms": "5"}, ["deadline_ms", "found '5'", "number"]),
        ({"deadline_ms": True}, ["deadline_ms", "found True", "number"]),
        ({"max_exit": 0}, ["max_exit", "found 0", "from 1 to 4"]),
        ({"max_exit": 5}, ["max_exit", "found 5", "from 1 to 4"]),
        ({"max_exit": 10**400}, ["max_exit", "found 1000", "from 1 to 4"]),
        ({"max_exit": 2.5}, ["max_exit", "found 2.5", "integer"]),
        ({"max_exit": float("inf")}, ["max_exit", "found inf", "integer"]),
        ({"max_exit": "2"}, ["max_exit", "found '2'", "integer"]),
        ({"priority": "shadow"}, ["priority", "'shadow'", "'interactive' or 'batch'"]),
        ({"priority": 1}, ["priority", "found 1", "string"]),
        ({"all_exits": 1}, ["all_exits", "found 1", "boolean"]),
        ({"stream": "yes"}, ["stream", "found 'yes'", "boolean"]),
        ({"stream": True, "max_exit": 5}, ["max_exit", "found 5", "from 1 to 4"]),
    ],
)
def test_a_bad_option_is_answered_with_what_is_allowed(
    client: TestClient, rows: np.ndarray, fields: dict[str, Any], words: list[str]
) -> None:
    error = refused(client, json.dumps({"rows": rows[:1].tolist(), **fields}))
    assert all(word in error for word in words), error
    assert len(error) < 300


option_values = st.fixed_dictionaries(
    {},
    optional={
        "policy": st.sampled_from(["certified", "full", "exit:1", "exit:4"]) | json_values,
        "max_exit": st.integers(1, 4) | json_values,
        "deadline_ms": st.floats(1, 1000) | json_values,
        "priority": st.sampled_from(["interactive", "batch"]) | json_values,
        "all_exits": st.booleans() | json_values,
        "stream": st.booleans() | json_values,
    },
)


@any_client
@given(option_values)
def test_no_option_is_an_internal_error(
    client: TestClient, rows: np.ndarray, fields: dict[str, Any]
) -> None:
    body = json.dumps({"rows": rows[:2].tolist(), **fields})
    response = client.post("/predict", content=body)
    assert response.status_code in (200, 400, 504), response.text
    for line in response.text.splitlines():
        json.loads(line)


def test_options_that_are_null_are_not_given(client: TestClient, rows: np.ndarray) -> None:
    body = predict(client, rows[:2].tolist(), policy="full", max_exit=None, deadline_ms=None)
    assert [row["exit"] for row in body["rows"]] == [4, 4]


@pytest.mark.parametrize("last", [2, 2.0])
def test_rows_leave_at_the_last_exit_asked_for(
    client: TestClient, rows: np.ndarray, last: float
) -> None:
    body = predict(client, rows[:8].tolist(), policy="full", max_exit=last, priority="batch")
    assert {row["exit"] for row in body["rows"]} == {2}
    assert {row["certified"] for row in body["rows"]} == {False}
    assert all("left" not in row and "all_exits" not in row for row in body["rows"])


def test_every_exit_is_listed_where_all_are_asked_for(
    client: TestClient, runtime: StageRuntime, rows: np.ndarray
) -> None:
    answers = runtime.all_exits((rows[:6],))
    (whole, plain) = (
        predict(client, rows[:6].tolist(), all_exits=asked)["rows"] for asked in (True, False)
    )
    for row, body in enumerate(whole):
        listed = body.pop("all_exits")
        assert [entry["exit"] for entry in listed] == [1, 2, 3, 4]
        for entry, expected in zip(listed, answers, strict=True):
            assert entry["score"] == pytest.approx(expected.score[row], abs=1e-4)
            assert list(entry["probabilities"].values()) == pytest.approx(
                expected.probabilities[row], abs=1e-4
            )
            assert len(entry["labels"]) == expected.labels[row].sum()
        assert body["exit"] == plain[row]["exit"]
        assert body["probabilities"] == pytest.approx(plain[row]["probabilities"], abs=1e-4)


def test_an_answer_says_that_it_is_due_to_the_deadline(
    client: TestClient, rows: np.ndarray, gates: list[Gate]
) -> None:
    gates.append(Gate(stage=2))
    body = predict(client, rows[:3].tolist(), policy="full", deadline_ms=300)
    assert [(row["exit"], row["left"], row["certified"]) for row in body["rows"]] == [
        (1, "deadline", False)
    ] * 3


def test_a_deadline_before_any_answer_is_a_timeout(
    client: TestClient, rows: np.ndarray, gates: list[Gate]
) -> None:
    gates.append(Gate(stage=1))
    error = refused(client, json.dumps({"rows": rows[:1].tolist(), "deadline_ms": 100}), 504)
    assert "deadline" in error


def streamed(client: TestClient, rows: np.ndarray, **fields: Any) -> list[dict[str, Any]]:
    response = client.post("/predict", json={"rows": rows.tolist(), "stream": True, **fields})
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/x-ndjson"
    return [json.loads(line) for line in response.text.splitlines()]


@pytest.mark.parametrize("fields", [{}, {"policy": "full"}, {"all_exits": True, "max_exit": 3}])
def test_a_stream_has_a_line_for_every_row(
    client: TestClient, dataplane: Dataplane, rows: np.ndarray, fields: dict[str, Any]
) -> None:
    whole = predict(client, rows[:40].tolist(), **fields)["rows"]
    lines = streamed(client, rows[:40], **fields)
    assert sorted(line["row"] for line in lines) == list(range(40))
    for line in lines:
        expected = whole[line.pop("row")]
        assert line.pop("version") == dataplane.version
        assert line.keys() == expected.keys()
        assert (line["exit"], line["certified"]) == (expected["exit"], expected["certified"])
        assert line["probabilities"] == pytest.approx(expected["probabilities"], abs=1e-4)


def test_an_error_ends_a_stream_with_a_line_of_its_own(
    client: TestClient, rows: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = StageRuntime.run

    def run(self: StageRuntime, stage: int, carry: Any) -> Any:
        if stage == 2 and len(carry[0]) and carry[0].any():
            raise RuntimeError("cannot be computed")
        return real(self, stage, carry)

    monkeypatch.setattr(StageRuntime, "run", run)
    *answered, last = streamed(client, rows[:40])
    assert list(last) == ["error", "request_id"]
    assert "row" in last["error"]
    assert "internal" not in last["error"]
    assert answered
    assert {line["exit"] for line in answered} == {1}


def test_an_overflown_stream_is_refused_like_any_request(
    client: TestClient, rows: np.ndarray
) -> None:
    body = json.dumps({"rows": np.full((1, 1, 32, 32), 1e38).tolist(), "stream": True})
    assert "no finite answer to the values of row 0" in refused(client, body)


class Caller:
    """One HTTP request to an ASGI application, whose client can go away.

    sent : what the application sent
    """

    def __init__(self, rows: np.ndarray, **fields: Any) -> None:
        self.body: bytes | None = json.dumps({"rows": rows.tolist(), **fields}).encode()
        self.gone = asyncio.Event()
        self.got_body = asyncio.Event()
        self.sent: list[dict[str, Any]] = []

    async def receive(self) -> dict[str, Any]:
        if self.body is not None:
            body, self.body = self.body, None
            return {"type": "http.request", "body": body, "more_body": False}
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        self.sent.append(message)
        if message.get("body"):
            self.got_body.set()

    async def call(self, plane: Dataplane) -> None:
        scope = {"type": "http", "method": "POST", "path": "/predict", "headers": []}
        scope["query_string"] = b""
        await app_over(plane)(scope, self.receive, self.send)


async def test_a_client_that_goes_away_takes_its_rows_along(
    bundle: Bundle, rows: np.ndarray, gates: list[Gate]
) -> None:
    async with serving(bundle) as plane:
        gates.append(Gate(stage=2))
        caller = Caller(rows[:5], policy="full")
        call = asyncio.create_task(caller.call(plane))
        await asyncio.to_thread(gates[0].reached.wait, 60)
        caller.gone.set()
        await call
        assert caller.sent[0]["status"] == 499
        assert counted(plane.metrics, "rows_total", outcome="cancelled") == 5
        assert counted(plane.metrics, "cancelled_rows_total", stage="2") == 5
        assert counted(plane.metrics, "requests_total", outcome="cancelled") == 1
        gates[0].opened.set()


async def test_a_client_that_leaves_a_stream_takes_the_other_rows_along(
    bundle: Bundle, rows: np.ndarray, gates: list[Gate]
) -> None:
    async with serving(bundle) as plane:
        gates.append(Gate(stage=2))
        caller = Caller(rows[:8], stream=True)
        call = asyncio.create_task(caller.call(plane))
        await asyncio.wait_for(caller.got_body.wait(), 60)
        caller.gone.set()
        await call
        lines = b"".join(message.get("body", b"") for message in caller.sent).splitlines()
        assert 0 < len(lines) < 8
        assert counted(plane.metrics, "rows_total", outcome="cancelled") == 8 - len(lines)
        assert counted(plane.metrics, "requests_total", outcome="cancelled") == 1
        gates[0].opened.set()


async def test_a_request_that_is_timed_out_takes_its_rows_along(
    bundle: Bundle, rows: np.ndarray, gates: list[Gate]
) -> None:
    async with serving(bundle) as plane:
        gates.append(Gate(stage=1))
        call = asyncio.create_task(Caller(rows[:5]).call(plane))
        await asyncio.to_thread(gates[0].reached.wait, 60)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert counted(plane.metrics, "rows_total", outcome="cancelled") == 5
        gates[0].opened.set()


@pytest.mark.parametrize(
    ("error", "status", "retry_after"),
    [
        (Overloaded("full", "rows", 0.0), 429, "1"),
        (Overloaded("full", "wait", 2.1), 429, "3"),
        (Unavailable("stopping"), 503, "1"),
        (DeadlineExceeded("late"), 504, None),
        (InvalidInput("bad"), 400, None),
        (RuntimeError("secret"), 500, None),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_errors_have_their_status_and_say_when_to_come_back(
    client: TestClient,
    rows: np.ndarray,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    status: int,
    retry_after: str | None,
    stream: bool,
) -> None:
    async def refuse(*_: object) -> None:
        raise error

    async def refuse_stream(*_: object) -> AsyncIterator[None]:
        raise error
        yield

    monkeypatch.setattr("service.engine.Engine.run", refuse)
    monkeypatch.setattr("service.engine.Engine.stream", refuse_stream)
    response = client.post("/predict", json={"rows": rows[:1].tolist(), "stream": stream})
    assert response.status_code == status
    assert response.headers.get("retry-after") == retry_after
    assert "secret" not in response.text


def test_a_service_that_is_not_ready_says_why(bundle: Bundle, rows: np.ndarray) -> None:
    plane = cold_dataplane(bundle)
    with TestClient(app_over(plane)) as client:
        error = refused(client, json.dumps({"rows": rows[:1].tolist()}), 503)
    assert "warming up" in error
    plane.close()


async def test_metrics_count_requests_rows_and_exits(bundle: Bundle, rows: np.ndarray) -> None:
    async with serving(bundle) as plane:
        with TestClient(app_over(plane)) as client:
            predict(client, rows[:5].tolist(), policy="full")
            predict(client, rows[:3].tolist(), policy="exit:1")
            streamed(client, rows[:2], policy="full")
            refused(client, "{")
            client.post("/predict", content=b" " * (2**20 + 1))
            lines = client.get("/metrics").text.splitlines()
    assert 'offramp_rows_total{model="digits",outcome="answered"} 10.0' in lines
    assert 'offramp_exits_total{exit="4",model="digits"} 7.0' in lines
    assert 'offramp_exits_total{exit="1",model="digits"} 3.0' in lines
    assert 'offramp_requests_total{model="digits",outcome="ok"} 3.0' in lines
    assert 'offramp_requests_total{model="digits",outcome="invalid_input"} 1.0' in lines
    assert 'offramp_requests_total{model="digits",outcome="payload_too_large"} 1.0' in lines
    assert 'offramp_batch_rows_sum{model="digits",stage="1"} 10.0' in lines
    assert 'offramp_batch_rows_sum{model="digits",stage="4"} 7.0' in lines
    assert 'offramp_queue_rows{model="digits",stage="1"} 0.0' in lines
