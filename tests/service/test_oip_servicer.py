from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2 as pb

from models.bundle import Bundle
from models.errors import (
    DeadlineExceeded,
    InvalidInput,
    Overloaded,
    Unavailable,
)
from service.dataplane import Dataplane
from service.output_tensors import OUTPUTS
from service.repository import Repository
from service.tensors import DATATYPES
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


def refused(call: Any, request: Any, **options: Any) -> grpc.RpcError:
    with pytest.raises(grpc.RpcError) as caught:
        call(request, **options)
    return caught.value


def test_answers_are_those_of_the_dataplane(
    stub: Any, dataplane: Dataplane, rows: np.ndarray
) -> None:
    response = stub.ModelInfer(message(dataplane, rows[:20]))
    expected = asyncio.run(dataplane.predict(rows[:20]))
    found = outputs(response)
    assert list(found) == list(OUTPUTS)
    np.testing.assert_array_equal(found["exit"], expected.routed.exits)
    np.testing.assert_array_equal(found["labels"], expected.routed.answers.labels)
    np.testing.assert_array_equal(found["certified"], expected.certified)
    np.testing.assert_allclose(
        found["probabilities"], expected.routed.answers.probabilities, atol=1e-4
    )


def test_rows_together_are_answered_as_alone(
    stub: Any, dataplane: Dataplane, rows: np.ndarray
) -> None:
    together = outputs(stub.ModelInfer(message(dataplane, rows[:12])))
    for place in range(12):
        alone = outputs(stub.ModelInfer(message(dataplane, rows[place : place + 1])))
        assert alone["exit"] == together["exit"][place]
        np.testing.assert_array_equal(alone["labels"][0], together["labels"][place])
        np.testing.assert_allclose(
            alone["probabilities"][0], together["probabilities"][place], atol=1e-4
        )


def test_typed_contents_are_answered_as_raw_ones(
    stub: Any, dataplane: Dataplane, rows: np.ndarray
) -> None:
    raw = message(dataplane, rows[:3])
    typed = message(dataplane, rows[:3])
    del typed.raw_input_contents[:]
    typed.inputs[0].contents.fp32_contents.extend(rows[:3].ravel().tolist())
    one, other = (outputs(stub.ModelInfer(request)) for request in (raw, typed))
    for name in OUTPUTS:
        np.testing.assert_allclose(one[name], other[name], atol=1e-4)


def test_the_id_the_model_and_the_outputs_asked_for_come_back(
    stub: Any, dataplane: Dataplane, rows: np.ndarray
) -> None:
    request = message(dataplane, rows[:2], policy="exit:2")
    request.id, request.model_version = "mine", dataplane.version
    request.outputs.add(name="exit")
    request.outputs.add(name="labels")
    response = stub.ModelInfer(request)
    assert (response.id, response.model_version) == ("mine", dataplane.version)
    found = outputs(response)
    assert list(found) == ["exit", "labels"]
    assert found["exit"].tolist() == [2, 2]


def broken(request: Any, **changed: Any) -> Any:
    for name, value in changed.items():
        setattr(request, name, value)
    return request


def test_what_a_client_does_wrong_has_its_status(
    stub: Any, dataplane: Dataplane, rows: np.ndarray
) -> None:
    def good(**parameters: Any) -> Any:
        return message(dataplane, rows[:1], **parameters)

    other_output = good()
    other_output.outputs.add(name="logits")
    wrong = [
        (broken(good(), model_name="other"), "NOT_FOUND", "other"),
        (broken(good(), model_name=""), "NOT_FOUND", "expected"),
        (broken(good(), model_version="1"), "NOT_FOUND", "version '1'"),
        (pb.ModelInferRequest(model_name=dataplane.name), "INVALID_ARGUMENT", "found none"),
        (message(dataplane, rows[:0]), "INVALID_ARGUMENT", "found 0 rows"),
        (message(dataplane, np.full_like(rows[:1], np.nan)), "INVALID_ARGUMENT", "rows[0]"),
        (other_output, "INVALID_ARGUMENT", "'logits'"),
        (good(policy="fast"), "INVALID_ARGUMENT", "policy: found 'fast'"),
        (good(max_exit=9), "INVALID_ARGUMENT", "max_exit"),
        (good(hurry=True), "INVALID_ARGUMENT", "'hurry'"),
        (good(deadline_ms=-1), "INVALID_ARGUMENT", "deadline_ms"),
    ]
    for request, code, words in wrong:
        error = refused(stub.ModelInfer, request, timeout=30)
        assert error.code().name == code, error.details()
        assert words in error.details()


def test_a_request_that_is_refused_at_the_door_is_counted(
    stub: Any, dataplane: Dataplane, rows: np.ndarray
) -> None:
    before = counted(dataplane.metrics, "requests_total", outcome="invalid_input")
    request = message(dataplane, rows[:1])
    request.raw_input_contents.append(b"")
    refused(stub.ModelInfer, request)
    assert counted(dataplane.metrics, "requests_total", outcome="invalid_input") == before + 1


@pytest.mark.parametrize(
    ("error", "code", "retry_after"),
    [
        (Overloaded("full", "rows", 0.0), "RESOURCE_EXHAUSTED", "1"),
        (Overloaded("full", "wait", 2.1), "RESOURCE_EXHAUSTED", "3"),
        (Unavailable("stopping"), "UNAVAILABLE", None),
        (DeadlineExceeded("late"), "DEADLINE_EXCEEDED", None),
        (InvalidInput("bad"), "INVALID_ARGUMENT", None),
        (RuntimeError("secret"), "INTERNAL", None),
    ],
)
def test_errors_have_their_status_and_say_when_to_come_back(
    stub: Any,
    dataplane: Dataplane,
    rows: np.ndarray,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
    code: str,
    retry_after: str | None,
) -> None:
    async def refuse(*_: object) -> None:
        raise error

    monkeypatch.setattr("service.engine.Engine.run", refuse)
    with caplog.at_level(logging.CRITICAL, "bentoml.offramp.doors"):
        caught = refused(stub.ModelInfer, message(dataplane, rows[:1]))
    assert caught.code().name == code
    assert "secret" not in caught.details()
    assert dict(caught.trailing_metadata()).get("retry-after") == retry_after


def test_a_deadline_of_the_call_is_one_of_its_rows(
    stub: Any, dataplane: Dataplane, rows: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[float] = []

    async def late(self: Any, job: Any) -> None:
        seen.append(job.deadline - self.clock())
        raise DeadlineExceeded("late")

    monkeypatch.setattr("service.engine.Engine.run", late)
    for parameters, timeout, most in [
        ({}, 20.0, 20_000),
        ({"deadline_ms": 5_000}, 20.0, 5_000),
        ({"deadline_ms": 30_000}, 20.0, 20_000),
        ({"timeout": 5_000_000}, 20.0, 5_000),
        ({"timeout": 30_000_000}, 20.0, 20_000),
        ({"deadline_ms": 5_000}, None, 5_000),
        ({}, None, np.inf),
        ({}, 90_000.0, np.inf),
    ]:
        refused(stub.ModelInfer, message(dataplane, rows[:1], **parameters), timeout=timeout)
        left = seen.pop()
        # a call's time is rounded up on the wire
        assert left == most or most - 1_000 < left < 1.02 * most, (parameters, timeout)


def test_rows_with_an_answer_leave_by_the_deadline_of_the_call(
    stub: Any, dataplane: Dataplane, rows: np.ndarray, gates: list[Gate]
) -> None:
    gates.append(Gate(stage=2))
    request = message(dataplane, rows[:3], policy="full", deadline_ms=300)
    found = outputs(stub.ModelInfer(request))
    assert found["exit"].tolist() == [1, 1, 1]
    assert not found["certified"].any()


def test_a_cancelled_call_takes_its_rows_along(
    bundle: Bundle, rows: np.ndarray, gates: list[Gate]
) -> None:
    plane = cold_dataplane(bundle)
    asyncio.run(plane.warm_up())
    gates.append(Gate(stage=2))
    gone = asyncio.Event()
    with grpc_door(over(plane)) as door, grpc.insecure_channel(door.address) as channel:
        real = plane.predict

        async def predict(*arguments: Any) -> Any:
            try:
                return await real(*arguments)
            finally:
                gone.set()

        plane.predict = predict  # type: ignore[method-assign]
        call = Stub(channel).ModelInfer.future(message(plane, rows[:5], policy="full"))
        assert gates[0].reached.wait(60)
        call.cancel()
        door.run(asyncio.wait_for(gone.wait(), 60))
        assert counted(plane.metrics, "rows_total", outcome="cancelled") == 5
        assert counted(plane.metrics, "cancelled_rows_total", stage="2") == 5
        assert counted(plane.metrics, "requests_total", outcome="cancelled") == 1
        gates[0].opened.set()
        assert Stub(channel).ModelInfer(message(plane, rows[:1])).outputs
    plane.close()


def test_the_index_has_every_model_or_the_ready_ones(bundle: Bundle) -> None:
    cold = Repository([lambda on_broken: cold_dataplane(bundle, on_broken)])
    with grpc_door(cold) as door, grpc.insecure_channel(door.address) as channel:
        stub = Stub(channel)
        (model,) = stub.RepositoryIndex(pb.RepositoryIndexRequest()).models
        assert (model.name, model.state) == (bundle.manifest.name, "LOADING")
        assert model.reason
        assert not stub.RepositoryIndex(pb.RepositoryIndexRequest(ready=True)).models
        assert not stub.ServerReady(pb.ServerReadyRequest()).ready
        assert stub.ServerLive(pb.ServerLiveRequest()).live
        assert not stub.ModelReady(pb.ModelReadyRequest(name=model.name)).ready
        request = pb.RepositoryIndexRequest(repository_name="other")
        assert refused(stub.RepositoryIndex, request).code().name == "UNIMPLEMENTED"


@pytest.mark.parametrize(
    "name",
    [
        "SystemSharedMemoryStatus",
        "SystemSharedMemoryRegister",
        "SystemSharedMemoryUnregister",
        "CudaSharedMemoryStatus",
        "CudaSharedMemoryRegister",
        "CudaSharedMemoryUnregister",
        "TraceSetting",
        "LogSettings",
    ],
)
def test_other_calls_say_that_there_are_none(stub: Any, name: str) -> None:
    error = refused(getattr(stub, name), getattr(pb, f"{name}Request")())
    assert error.code().name == "UNIMPLEMENTED"
    assert "this server does not have" in error.details()


@pytest.mark.parametrize(
    "method",
    [
        method
        for method in pb.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods
        if not method.client_streaming
    ],
    ids=lambda method: method.name,
)
def test_no_call_without_a_body_does_harm(stub: Any, method: Any) -> None:
    code = "OK"
    try:
        getattr(stub, method.name)(getattr(pb, method.input_type.name)())
    except grpc.RpcError as error:
        code = error.code().name
    assert code in ("OK", "NOT_FOUND", "UNIMPLEMENTED", "PERMISSION_DENIED")


DATATYPE = st.sampled_from([*DATATYPES, "BF16", "", "é"])
SIZES = st.lists(st.sampled_from([-1, 0, 1, 2, 32, 1024, 2**40, 2**63 - 1]), max_size=9)
CONTENTS = st.one_of(
    st.none(),
    st.builds(lambda x: {"fp32_contents": x}, st.lists(st.floats(width=32), max_size=4)),
    st.builds(lambda x: {"int_contents": x}, st.lists(st.integers(-(2**31), 2**31 - 1))),
    st.builds(lambda x: {"bytes_contents": x}, st.lists(st.binary(max_size=6), max_size=4)),
)
PARAMETER = st.sampled_from(
    [{}, {"int64_param": -1}, {"string_param": "full"}, {"double_param": float("nan")}]
)
NAMED_PARAMETERS = st.dictionaries(
    st.sampled_from(["policy", "max_exit", "deadline_ms", "timeout", "priority", "x"]),
    PARAMETER,
    max_size=2,
)


@st.composite
def messages(draw: st.DrawFn, name: str, model: str) -> Any:
    names = st.sampled_from([name, name, "other", ""])
    request = pb.ModelInferRequest(
        model_name=draw(st.sampled_from([model, model, model, "", "é"])),
        id=draw(st.text(max_size=5)),
        raw_input_contents=draw(st.lists(st.binary(max_size=40), max_size=2)),
        inputs=[
            pb.ModelInferRequest.InferInputTensor(
                name=draw(names),
                datatype=draw(DATATYPE),
                shape=draw(SIZES),
                contents=draw(CONTENTS),
            )
            for _ in range(draw(st.integers(0, 2)))
        ],
        outputs=[{"name": draw(st.sampled_from([*OUTPUTS, "", "row"]))} for _ in range(2)]
        if draw(st.booleans())
        else [],
    )
    for key, value in draw(NAMED_PARAMETERS).items():
        request.parameters[key].MergeFrom(pb.InferParameter(**value))
    return request


REFUSALS = {"INVALID_ARGUMENT", "NOT_FOUND"}


@settings(
    deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
def test_no_message_does_harm(
    stub: Any, dataplane: Dataplane, rows: np.ndarray, data: st.DataObject
) -> None:
    (spec,) = dataplane.manifest.inputs
    request = data.draw(messages(spec.name, dataplane.name))
    error = refused(stub.ModelInfer, request, timeout=30)
    assert error.code().name in REFUSALS, (error.code(), error.details())
    (response,) = stub.ModelStreamInfer(iter([request]), timeout=30)
    assert response.error_message
    assert response.infer_response.id == request.id
    assert stub.ModelInfer(message(dataplane, rows[:1]), timeout=30).outputs


@settings(
    deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.binary(max_size=60))
def test_bytes_that_are_no_message_do_no_harm(
    door: GrpcDoor, stub: Any, dataplane: Dataplane, rows: np.ndarray, content: bytes
) -> None:
    with grpc.insecure_channel(door.address) as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        refused(call, content, timeout=30)
    assert stub.ModelInfer(message(dataplane, rows[:1]), timeout=30).outputs
