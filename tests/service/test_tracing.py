from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import numpy as np
import pytest
from bentoml._internal.utils.telemetry import ParentBasedTraceIdRatio
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind, StatusCode
from starlette.testclient import TestClient

from models.bundle import Bundle
from service.calls import Calls
from service.dataplane import Dataplane
from service.engine import Engine
from service.request import Job, Routed
from tests.service.conftest import Gate, app_over, serving
from tests.service.grpc_door import Stub, grpc_door, message, over
from tests.service.logged_lines import logged_lines
from tests.service.spans import Spans, facts

TRACE, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAMPLED, NOT_SAMPLED = f"00-{TRACE}-{CALLER}-01", f"00-{TRACE}-{CALLER}-00"


@pytest.fixture
def spans() -> Spans:
    return Spans()


@contextmanager
def traced_client(plane: Dataplane, spans: Spans, **changed: Any) -> Iterator[TestClient]:
    app = app_over(plane, Calls(tracing=spans.tracing()), **changed)
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


def post(client: TestClient, rows: np.ndarray, parent: str = "", **fields: Any) -> Any:
    sent = {"rows": rows.tolist(), **fields}
    return client.post("/predict", json=sent, headers={"traceparent": parent})


def names(spans: list[ReadableSpan]) -> list[str]:
    return [span.name for span in spans]


def assert_true_times(whole: ReadableSpan, parts: list[ReadableSpan]) -> None:
    """All lie in the request, its queue ends with its first run, and rows leave after a run."""
    assert all(whole.start_time <= span.start_time <= span.end_time for span in parts)
    assert all(span.end_time <= whole.end_time for span in parts)
    runs = [span for span in parts if span.name.startswith("stage")]
    assert (parts[0].name, parts[0].end_time) == ("queue", runs[0].start_time)
    ends = {(span.name.removeprefix("stage "), span.end_time) for span in runs}
    exits = [span for span in parts if span.name.startswith("exit")]
    assert {(span.name.removeprefix("exit "), span.start_time) for span in exits} <= ends


def test_a_request_is_traced_from_its_queue_to_its_exits(
    dataplane: Dataplane, rows: np.ndarray, spans: Spans
) -> None:
    with traced_client(dataplane, spans) as client:
        answer = post(client, rows[:40], SAMPLED)
    left = Counter(row["exit"] for row in answer.json()["rows"])
    assert len(left) > 2
    whole = spans.request()
    assert whole.kind is SpanKind.SERVER
    assert whole.parent is not None
    assert f"{whole.context.trace_id:032x}" == TRACE
    assert f"{whole.parent.span_id:016x}" == CALLER
    assert facts(whole) == {
        "door": "predict",
        "request_id": answer.headers["x-request-id"],
        "model": dataplane.name,
        "version": dataplane.version,
        "rows": 40,
        "policy": "certified",
        "exits": ",".join(f"{number}:{count}" for number, count in sorted(left.items())),
        "url.path": "/predict",
        "http.response.status_code": 200,
    }
    parts = spans.below(whole)
    assert_true_times(whole, parts)
    stages = range(1, max(left) + 1)
    expected = {"queue", *(f"stage {k}" for k in stages), *(f"exit {k}" for k in left)}
    assert set(names(parts)) == expected
    for name, rows_of_all in [("stage 1", 40), *((f"exit {k}", n) for k, n in left.items())]:
        assert sum(facts(span)["rows"] for span in parts if span.name == name) == rows_of_all


async def test_every_batch_that_rows_run_in_is_a_span(
    bundle: Bundle, rows: np.ndarray, spans: Spans
) -> None:
    async with serving(bundle, max_batch_rows=4) as plane:
        with traced_client(plane, spans) as client:
            post(client, rows[:10], policy="exit:1")
    parts = spans.below(spans.request())
    assert_true_times(spans.request(), parts)
    runs = [facts(span) for span in parts if span.name == "stage 1"]
    assert sorted((run["rows"], run["batch_rows"]) for run in runs) == [(2, 2), (4, 4), (4, 4)]
    out = [facts(span) for span in parts if span.name == "exit 1"]
    assert sorted(rows_out["rows"] for rows_out in out) == [2, 4, 4]
    assert all(0 <= o["lowest_score"] <= o["highest_score"] <= 1 for o in out)
    assert {o["left"] for o in out} == {"policy"}


def test_a_stream_is_traced_as_a_whole(
    dataplane: Dataplane, rows: np.ndarray, spans: Spans
) -> None:
    with traced_client(dataplane, spans) as client:
        assert len(post(client, rows[:20], stream=True).text.splitlines()) == 20
    parts = spans.below(spans.request())
    assert_true_times(spans.request(), parts)
    assert sum(facts(span)["rows"] for span in parts if span.name.startswith("exit")) == 20


def test_a_request_that_fails_is_traced_with_its_error(
    dataplane: Dataplane, rows: np.ndarray, spans: Spans, gates: list[Gate]
) -> None:
    gates.append(Gate(stage=1))
    with traced_client(dataplane, spans) as client:
        assert post(client, rows[:1], policy="fast").status_code == 400
        assert post(client, rows[:1], deadline_ms=100).status_code == 504
        assert client.get("/nowhere").status_code == 404
    bad, late, lost = spans.requests(3)
    assert facts(bad) | {"error.type": "invalid_input", "model": dataplane.name} == facts(bad)
    assert bad.status.status_code is StatusCode.UNSET  # the client's fault
    assert "found 'fast'" in bad.events[0].attributes["exception.message"]
    assert spans.below(bad) == []
    assert facts(late) | {"error.type": "deadline", "http.response.status_code": 504} == facts(late)
    assert late.status.status_code is StatusCode.ERROR
    (queue,) = spans.below(late)
    assert (queue.name, queue.end_time) == ("queue", late.end_time)
    assert facts(lost)["http.response.status_code"] == 404


def test_an_internal_error_is_traced(
    dataplane: Dataplane, rows: np.ndarray, spans: Spans, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def break_down(*_: object) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr(Engine, "run", break_down)
    with traced_client(dataplane, spans) as client:
        assert post(client, rows[:1]).status_code == 500
    whole = spans.request()
    assert facts(whole)["error.type"] == "internal"
    assert whole.events[0].attributes["exception.type"] == "RuntimeError"


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> list[Job]:
    """What the engines are asked from now on."""
    asked: list[Job] = []
    real = Engine.run

    async def run(self: Engine, job: Job) -> Routed:
        asked.append(job)
        return await real(self, job)

    monkeypatch.setattr(Engine, "run", run)
    return asked


@pytest.mark.parametrize(
    ("rate", "parent", "traced"),
    [(0.0, "", 0), (0.0, NOT_SAMPLED, 0), (1.0, NOT_SAMPLED, 0), (0.0, SAMPLED, 1), (1.0, "", 1)],
)
def test_the_engine_is_asked_for_a_trace_where_the_sampler_says_so(
    dataplane: Dataplane,
    rows: np.ndarray,
    spans: Spans,
    jobs: list[Job],
    rate: float,
    parent: str,
    traced: int,
) -> None:
    sampler = ParentBasedTraceIdRatio(rate)  # BentoML's
    app = app_over(dataplane, Calls(tracing=spans.tracing(sampler)))
    assert post(TestClient(app), rows[:2], parent).status_code == 200
    assert [job.trace is not None for job in jobs] == [bool(traced)]
    assert len(spans.requests(traced)) == traced


def test_without_tracing_nothing_is_noted(
    dataplane: Dataplane, rows: np.ndarray, jobs: list[Job]
) -> None:
    assert post(TestClient(app_over(dataplane)), rows[:2], SAMPLED).status_code == 200
    assert [job.trace for job in jobs] == [None]


@pytest.mark.parametrize(
    "parent", ["00", f"00-{TRACE}-{CALLER}", f"00-{'0' * 32}-{CALLER}-01", "\xff" * 55, "0" * 9999]
)
def test_a_parent_that_cannot_be_read_begins_a_trace_of_its_own(
    dataplane: Dataplane, rows: np.ndarray, spans: Spans, parent: str
) -> None:
    with traced_client(dataplane, spans) as client:
        sent = {"traceparent": parent.encode("latin-1")}
        assert client.get("/v2", headers=sent).status_code == 200
    assert spans.request().parent is None


def test_probes_metrics_and_the_page_are_not_traced(dataplane: Dataplane, spans: Spans) -> None:
    with traced_client(dataplane, spans) as client:
        for path in ("/v2/health/ready", "/metrics", "/ui", "/ui/app.js"):
            client.get(path, headers={"traceparent": SAMPLED})
        client.get("/v2/models/m/ready")
    assert facts(spans.request())["url.path"] == "/v2/models/m/ready"


def test_lines_of_the_log_name_the_trace(
    dataplane: Dataplane,
    rows: np.ndarray,
    spans: Spans,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def break_down(*_: object) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr(Engine, "run", break_down)
    app = app_over(dataplane, Calls(access_log=True, tracing=spans.tracing()))
    with logged_lines() as logged:
        post(TestClient(app, raise_server_exceptions=False), rows[:1], SAMPLED)
    lines = [*logged.lines("internal_error", 1), *logged.lines("request", 1)]
    assert all(f" trace_id={TRACE}" in line for line in lines)


def test_a_grpc_call_is_traced(dataplane: Dataplane, rows: np.ndarray, spans: Spans) -> None:
    calls = Calls(tracing=spans.tracing())
    with (
        grpc_door(over(dataplane), calls=calls) as door,
        grpc.insecure_channel(door.address) as channel,
    ):
        sent = (("traceparent", SAMPLED), ("x-request-id", "mine"))
        Stub(channel).ModelInfer(message(dataplane, rows[:20]), metadata=sent)
        whole = spans.requests(1)[0]
        with pytest.raises(grpc.RpcError):
            Stub(channel).ModelInfer(message(dataplane, rows[:1], policy="fast"), metadata=sent)
        failed = spans.requests(2)[1]
    assert f"{whole.context.trace_id:032x}" == TRACE
    expected = {
        "door": "grpc",
        "request_id": "mine",
        "model": dataplane.name,
        "rows": 20,
        "rpc.method": "ModelInfer",
        "rpc.response.status_code": "OK",
    }
    assert facts(whole) | expected == facts(whole)
    parts = spans.below(whole)
    assert_true_times(whole, parts)
    assert sum(facts(span)["rows"] for span in parts if span.name.startswith("exit")) == 20
    expected = {"error.type": "invalid_input", "rpc.response.status_code": "INVALID_ARGUMENT"}
    assert facts(failed) | expected == facts(failed)


def test_every_request_of_a_grpc_stream_is_traced(
    dataplane: Dataplane, rows: np.ndarray, spans: Spans
) -> None:
    calls = Calls(tracing=spans.tracing())
    requests = [message(dataplane, rows[:count]) for count in (1, 2, 3)]
    requests.append(message(dataplane, rows[:1], policy="fast"))
    with (
        grpc_door(over(dataplane), calls=calls) as door,
        grpc.insecure_channel(door.address) as channel,
    ):
        sent = (("traceparent", SAMPLED),)
        assert [*Stub(channel).ModelStreamInfer(iter(requests), metadata=sent)]
        found = spans.requests(4)
    assert sorted(facts(whole).get("rows", 0) for whole in found) == [0, 1, 2, 3]
    assert {f"{whole.context.trace_id:032x}" for whole in found} == {TRACE}
    assert len({facts(whole)["request_id"] for whole in found}) == 1
    answered = [whole for whole in found if facts(whole)["rpc.response.status_code"] == "OK"]
    assert len(answered) == 3
    for whole in answered:
        out = [facts(span) for span in spans.below(whole) if span.name.startswith("exit")]
        assert sum(rows_out["rows"] for rows_out in out) == facts(whole)["rows"]


async def test_a_request_that_is_given_up_is_traced_as_such(
    bundle: Bundle, rows: np.ndarray, spans: Spans, gates: list[Gate]
) -> None:
    async with serving(bundle) as plane:
        gates.append(Gate(stage=2))
        calls = Calls(tracing=spans.tracing())
        with grpc_door(over(plane), calls=calls) as door:
            async with grpc.aio.insecure_channel(door.address) as channel:
                call = Stub(channel).ModelInfer(message(plane, rows[:5], policy="full"))
                await asyncio.to_thread(gates[0].reached.wait, 60)
                call.cancel()
                whole = (await asyncio.to_thread(spans.requests, 1))[0]
                gates[0].opened.set()
    assert facts(whole)["rpc.response.status_code"] == "CANCELLED"
    assert names(spans.below(whole)) == ["queue", "stage 1"]
