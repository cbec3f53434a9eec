from __future__ import annotations

import asyncio
import queue
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2 as pb

from models.bundle import Bundle
from models.errors import DeadlineExceeded
from service.dataplane import Dataplane
from service.oip_stream import EMPTY_FINAL, FINAL, REQUESTS, OipStream
from tests.service.conftest import Gate, cold_dataplane, counted
from tests.service.grpc_door import GrpcDoor, Stub, grpc_door, message, outputs, over


@pytest.fixture(scope="module")
def door(dataplane: Dataplane) -> Iterator[GrpcDoor]:
    with grpc_door(over(dataplane)) as door:
        yield door


@pytest.fixture(scope="module")
def stub(door: GrpcDoor) -> Iterator[Any]:
    with grpc.insecure_channel(door.address) as channel:
        yield Stub(channel)


class Requests:
    """Requests of one call, sent one after another when the test says so."""

    def __init__(self, *first: Any) -> None:
        self._queue: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for request in first:
            self.send(request)

    def send(self, request: Any) -> None:
        self._queue.put(request)

    def end(self) -> None:
        self._queue.put(None)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._queue.get, None)


def named(plane: Dataplane, name: str, rows: np.ndarray, **parameters: Any) -> Any:
    request = message(plane, rows, **parameters)
    request.id = name
    return request


def is_final(response: Any) -> bool:
    return bool(response.infer_response.parameters[FINAL].bool_param)


def test_rows_come_once_each_and_as_without_a_stream(
    stub: Any, dataplane: Dataplane, rows: np.ndarray
) -> None:
    whole = outputs(stub.ModelInfer(message(dataplane, rows[:40])))
    responses = [*stub.ModelStreamInfer(iter([named(dataplane, "a", rows[:40])]))]
    found: list[int] = []
    for response in responses:
        assert response.infer_response.id == "a"
        part = outputs(response.infer_response)
        places = part.pop("row").tolist()
        found += places
        for name, array in part.items():
            np.testing.assert_allclose(array, whole[name][places], atol=1e-4)
    assert sorted(found) == list(range(40))
    assert [is_final(response) for response in responses] == [False] * (len(responses) - 1) + [True]


def test_rows_come_as_they_leave(
    stub: Any, dataplane: Dataplane, rows: np.ndarray, gates: list[Gate]
) -> None:
    exits = outputs(stub.ModelInfer(message(dataplane, rows[:20])))["exit"]
    early = np.flatnonzero(exits == 1)
    assert 0 < len(early) < 20
    gates.append(Gate(stage=2))
    answers = stub.ModelStreamInfer(iter([message(dataplane, rows[:20])]))
    first = outputs(next(answers).infer_response)["row"]
    assert set(first) <= set(early)
    gates[0].opened.set()
    assert sum(len(outputs(answer.infer_response)["row"]) for answer in answers) + len(first) == 20


def test_an_empty_last_response_comes_where_it_is_asked_for(
    stub: Any, dataplane: Dataplane, rows: np.ndarray
) -> None:
    request = named(dataplane, "a", rows[:3], **{EMPTY_FINAL: True})
    *parts, last = stub.ModelStreamInfer(iter([request]))
    assert parts
    assert not any(map(is_final, parts))
    assert is_final(last)
    assert not last.infer_response.outputs
    assert last.infer_response.id == "a"


def test_a_request_that_fails_is_told_and_the_others_go_on(
    stub: Any, dataplane: Dataplane, rows: np.ndarray
) -> None:
    requests = [
        named(dataplane, "good", rows[:2]),
        named(dataplane, "bad", rows[:2], policy="fast"),
        named(dataplane, "worse", rows[:0]),
        named(dataplane, "as good", rows[:2]),
    ]
    answered: dict[str, int] = {}
    failed: dict[str, str] = {}
    for response in stub.ModelStreamInfer(iter(requests)):
        name = response.infer_response.id
        if response.error_message:
            assert is_final(response)
            failed[name] = response.error_message
        else:
            rows_in_it = len(outputs(response.infer_response)["row"])
            answered[name] = answered.get(name, 0) + rows_in_it
    assert answered == {"good": 2, "as good": 2}
    assert failed.keys() == {"bad", "worse"}
    assert "'fast'" in failed["bad"]


def test_a_request_does_not_wait_for_the_one_before(
    stub: Any, dataplane: Dataplane, rows: np.ndarray, gates: list[Gate]
) -> None:
    gates.append(Gate(stage=2))
    requests = Requests(named(dataplane, "slow", rows[:1], policy="full"))
    answers = stub.ModelStreamInfer(iter(requests))
    assert gates[0].reached.wait(60)
    requests.send(named(dataplane, "wrong", rows[:1], policy="fast"))
    assert next(answers).infer_response.id == "wrong"
    gates[0].opened.set()
    assert next(answers).infer_response.id == "slow"
    requests.end()
    assert [*answers] == []


async def test_so_many_requests_are_read_and_no_more(
    dataplane: Dataplane, rows: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, sent, held = 0, 0, asyncio.Event()

    async def messages() -> AsyncIterator[Any]:
        nonlocal read
        while read < 3 * REQUESTS:
            read += 1
            yield message(dataplane, rows[:1])

    async def answer(*_: object) -> AsyncIterator[None]:
        await held.wait()
        raise DeadlineExceeded("late")
        yield

    class Context:
        def time_remaining(self) -> None:
            return None

        async def write(self, _: object) -> None:
            nonlocal sent
            sent += 1

    monkeypatch.setattr("service.oip_stream.infer_stream", answer)
    stream = asyncio.create_task(OipStream(over(dataplane), Context()).run(messages()))
    for _ in range(20 * REQUESTS):  # more turns of the loop than it takes to read them all
        await asyncio.sleep(0)
    assert read == REQUESTS + 1
    held.set()
    await stream
    assert sent == read == 3 * REQUESTS


def test_a_client_that_leaves_takes_its_rows_along(
    bundle: Bundle, rows: np.ndarray, gates: list[Gate]
) -> None:
    plane = cold_dataplane(bundle)
    asyncio.run(plane.warm_up())
    gates.append(Gate(stage=2))
    with grpc_door(over(plane)) as door, grpc.insecure_channel(door.address) as channel:
        answers = Stub(channel).ModelStreamInfer(iter([message(plane, rows[:20])]))
        first = len(outputs(next(answers).infer_response)["row"])
        before = door.run(tasks())
        answers.cancel()
        door.run(ended(before))
        gates[0].opened.set()
        assert counted(plane.metrics, "rows_total", outcome="cancelled") == 20 - first
        assert counted(plane.metrics, "requests_total", outcome="cancelled") == 1
    plane.close()


async def tasks() -> set[asyncio.Task[Any]]:
    return asyncio.all_tasks() - {asyncio.current_task()}  # type: ignore[arg-type]


async def ended(before: set[asyncio.Task[Any]]) -> None:
    """Until one request's task of those is over."""
    requests = {task for task in before if "_answer" in repr(task.get_coro())}
    assert requests
    await asyncio.wait_for(asyncio.wait(requests), 60)


def test_stopping_answers_what_was_asked_and_reads_no_more(
    dataplane: Dataplane, rows: np.ndarray, gates: list[Gate]
) -> None:
    gates.append(Gate(stage=2))
    with grpc_door(over(dataplane)) as door, grpc.insecure_channel(door.address) as channel:
        requests = Requests(named(dataplane, "a", rows[:2], policy="full"))
        answers = Stub(channel).ModelStreamInfer(iter(requests))
        assert gates[0].reached.wait(60)
        stopping = asyncio.run_coroutine_threadsafe(door.server.stop(60), door.loop)
        door.run(asyncio.sleep(0))
        requests.send(named(dataplane, "b", rows[:2]))
        gates[0].opened.set()
        found: list[str] = []
        with pytest.raises(grpc.RpcError) as caught:
            found.extend(answer.infer_response.id for answer in answers)
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
        assert "stopping" in caught.value.details()
        assert set(found) == {"a"}
        stopping.result(60)
        requests.end()


def test_the_deadline_of_the_call_is_that_of_its_requests(
    stub: Any, dataplane: Dataplane, rows: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[float] = []

    async def late(self: Any, job: Any) -> AsyncIterator[None]:
        seen.append(job.deadline - self.clock())
        raise DeadlineExceeded("late")
        yield

    monkeypatch.setattr("service.engine.Engine.stream", late)
    (response,) = stub.ModelStreamInfer(iter([message(dataplane, rows[:1])]), timeout=20.0)
    assert response.error_message == "late"
    assert 19_000 < seen[0] < 20_400  # a call's time is rounded up on the wire


def test_a_stream_without_requests_ends(stub: Any) -> None:
    assert [*stub.ModelStreamInfer(iter([]))] == []


def test_an_unknown_model_is_told_in_the_stream(stub: Any) -> None:
    (response,) = stub.ModelStreamInfer(iter([pb.ModelInferRequest(model_name="no", id="i")]))
    assert "'no'" in response.error_message
    assert response.infer_response.id == "i"
