from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)
from tritonclient.grpc import aio as triton_aio
from tritonclient.grpc import service_pb2 as pb

from models.bundle import Bundle
from models.errors import SettingsError
from service.dataplane import Dataplane
from service.grpc_server import GrpcServer
from service.locks import Locks
from service.oip_servicer import SERVICE
from service.repository import Repository
from service.settings import Settings
from tests.service.conftest import LIMITS, Gate, cold_dataplane
from tests.service.grpc_door import (
    Caught,
    GrpcDoor,
    Stub,
    grpc_door,
    message,
    numbers,
    outputs,
    over,
    places,
)

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
KEY, ADMIN_KEY = "k" * 32, "a" * 32


@pytest.fixture(scope="module")
def door(dataplane: Dataplane) -> Iterator[GrpcDoor]:
    with grpc_door(over(dataplane)) as door:
        yield door


@pytest.fixture(scope="module")
def client(door: GrpcDoor) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(door.address) as client:
        yield client


def refused(call: Any, *arguments: Any, **named: Any) -> triton.InferenceServerException:
    with pytest.raises(triton.InferenceServerException) as caught:
        call(*arguments, **named)
    return caught.value


def health(channel: grpc.Channel, service: str = "") -> Any:
    stub = health_pb2_grpc.HealthStub(channel)
    return stub.Check(health_pb2.HealthCheckRequest(service=service)).status


def test_tritonclient_finds_the_server_and_its_model(
    client: triton.InferenceServerClient, dataplane: Dataplane
) -> None:
    name, version = dataplane.name, dataplane.version
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(name)
    assert client.is_model_ready(name, version)
    assert client.get_server_metadata(as_json=True)["name"] == "offramp"
    metadata = client.get_model_metadata(name, as_json=True)
    assert metadata["versions"] == [version]
    assert metadata["inputs"] == [
        {"name": "image", "datatype": "FP32", "shape": ["-1", "1", "32", "32"]}
    ]
    assert [output["name"] for output in metadata["outputs"]] == [
        "labels",
        "probabilities",
        "exit",
        "score",
        "certified",
    ]
    config = client.get_model_config(name, as_json=True)["config"]
    assert config["max_batch_size"] == dataplane.max_rows
    assert config["input"] == [
        {"name": "image", "data_type": "TYPE_FP32", "dims": ["1", "32", "32"]}
    ]
    assert config["output"][2] == {"name": "exit", "data_type": "TYPE_INT32"}
    index = client.get_model_repository_index(as_json=True)
    assert index["models"] == [{"name": name, "version": version, "state": "READY"}]


def test_tritonclient_infers(
    client: triton.InferenceServerClient, dataplane: Dataplane, rows: np.ndarray
) -> None:
    result = client.infer(dataplane.name, numbers(dataplane, rows[:7]), request_id="7")
    expected = asyncio.run(dataplane.predict(rows[:7]))
    assert result.get_response().id == "7"
    np.testing.assert_array_equal(result.as_numpy("exit"), expected.routed.exits)
    np.testing.assert_array_equal(result.as_numpy("labels"), expected.routed.answers.labels)


def test_tritonclient_chooses_outputs_and_options(
    client: triton.InferenceServerClient, dataplane: Dataplane, rows: np.ndarray
) -> None:
    result = client.infer(
        dataplane.name,
        numbers(dataplane, rows[:2]),
        model_version=dataplane.version,
        outputs=[triton.InferRequestedOutput("exit")],
        priority=2,
        timeout=10_000_000,
        client_timeout=10,
        parameters={"policy": "full", "max_exit": 3},
    )
    assert result.as_numpy("labels") is None
    assert result.as_numpy("exit").tolist() == [3, 3]


def test_tritonclient_is_told_what_is_wrong(
    client: triton.InferenceServerClient, dataplane: Dataplane, rows: np.ndarray
) -> None:
    sent = numbers(dataplane, rows[:1])
    error = refused(client.infer, "other", sent)
    assert error.status() == "StatusCode.NOT_FOUND"
    classes = [triton.InferRequestedOutput("labels", class_count=3)]
    error = refused(client.infer, dataplane.name, sent, outputs=classes)
    assert "'classification'" in error.message()
    error = refused(client.get_model_metadata, dataplane.name, "9")
    assert error.status() == "StatusCode.NOT_FOUND"
    error = refused(client.load_model, dataplane.name)
    assert error.status() == "StatusCode.PERMISSION_DENIED"
    error = refused(client.unload_model, dataplane.name)
    assert error.status() == "StatusCode.PERMISSION_DENIED"


def test_tritonclient_gives_up_in_time(
    client: triton.InferenceServerClient,
    dataplane: Dataplane,
    rows: np.ndarray,
    gates: list[Gate],
) -> None:
    gates.append(Gate(stage=1))
    sent = numbers(dataplane, rows[:1])
    error = refused(client.infer, dataplane.name, sent, client_timeout=0.2)
    assert error.status() == "StatusCode.DEADLINE_EXCEEDED"
    gates[0].opened.set()
    assert client.infer(dataplane.name, sent).as_numpy("exit").size == 1


def test_tritonclient_streams(
    client: triton.InferenceServerClient, dataplane: Dataplane, rows: np.ndarray
) -> None:
    caught = Caught()
    client.start_stream(caught)
    client.async_stream_infer(
        dataplane.name,
        numbers(dataplane, rows[:9]),
        request_id="a",
        enable_empty_final_response=True,
    )
    client.async_stream_infer(dataplane.name, numbers(dataplane, rows[:0]), request_id="b")
    client.async_stream_infer("other", numbers(dataplane, rows[:1]))
    client.stop_stream()  # waits for what is pending
    *parts, last = caught.results
    assert sorted(places(parts)) == list(range(9))
    assert last.get_response().parameters["triton_final_response"].bool_param
    assert len(caught.errors) == 2


def test_tritonclient_cancels_a_stream(
    client: triton.InferenceServerClient,
    dataplane: Dataplane,
    rows: np.ndarray,
    gates: list[Gate],
) -> None:
    gates.append(Gate(stage=1))
    caught = Caught()
    client.start_stream(caught)
    client.async_stream_infer(dataplane.name, numbers(dataplane, rows[:2]))
    assert gates[0].reached.wait(60)
    client.stop_stream(cancel_requests=True)
    assert not caught.results


def test_tritonclient_aio_infers_and_streams(
    door: GrpcDoor, dataplane: Dataplane, rows: np.ndarray
) -> None:
    async def talk() -> tuple[int, list[Any], list[Any]]:
        async with triton_aio.InferenceServerClient(door.address) as client:
            assert await client.is_server_ready()
            answers = await asyncio.gather(
                *(client.infer(dataplane.name, numbers(dataplane, rows[:3])) for _ in range(20))
            )

            async def requests() -> Any:
                for name in ("a", "b"):
                    yield {
                        "model_name": dataplane.name,
                        "inputs": numbers(dataplane, rows[:4]),
                        "request_id": name,
                    }
                yield {"model_name": "other", "inputs": numbers(dataplane, rows[:1])}

            results, errors = [], []
            async for result, error in client.stream_infer(requests()):
                (results if error is None else errors).append(result or error)
            return sum(answer.as_numpy("exit").size for answer in answers), results, errors

    answered, results, errors = door.run(talk())
    assert answered == 60
    assert sorted(places(results)) == [0, 0, 1, 1, 2, 2, 3, 3]
    assert len(errors) == 1


def test_statistics_count_what_was_answered(
    client: triton.InferenceServerClient, dataplane: Dataplane, rows: np.ndarray
) -> None:
    def statistics(name: str = "") -> Any:
        (found,) = client.get_inference_statistics(name).model_stats
        return found

    before = statistics()
    client.infer(dataplane.name, numbers(dataplane, rows[:6]))
    refused(client.infer, dataplane.name, numbers(dataplane, rows[:0]))
    after = statistics(dataplane.name)
    assert (after.name, after.version) == (dataplane.name, dataplane.version)
    assert after.inference_count == before.inference_count + 6
    assert after.execution_count == before.execution_count + 1
    assert after.inference_stats.success.count == before.inference_stats.success.count + 1
    assert after.inference_stats.fail.count == before.inference_stats.fail.count + 1
    assert after.inference_stats.compute_infer.ns > before.inference_stats.compute_infer.ns
    assert after.last_inference > 1.7e12


def test_models_are_unloaded_and_loaded_where_clients_may(bundle: Bundle, rows: np.ndarray) -> None:
    planes: list[Dataplane] = []

    def open_model(on_broken: Any) -> Dataplane:
        planes.append(cold_dataplane(bundle, on_broken))
        return planes[-1]

    repository = Repository([open_model])
    asyncio.run(repository.start())
    name = bundle.manifest.name
    with (
        grpc_door(repository, repository_calls=True) as door,
        triton.InferenceServerClient(door.address) as client,
        grpc.insecure_channel(door.address) as channel,
    ):
        assert refused(client.load_model, "other").status() == "StatusCode.NOT_FOUND"
        error = refused(client.load_model, name, config="{}")
        assert error.status() == "StatusCode.UNIMPLEMENTED"
        client.unload_model(name)
        assert not client.is_model_ready(name)
        assert not client.is_server_ready()
        assert health(channel) == NOT_SERVING
        error = refused(client.infer, name, numbers(planes[0], rows[:1]))
        assert error.status() == "StatusCode.UNAVAILABLE"
        assert list(client.get_inference_statistics().model_stats) == []
        client.load_model(name)
        assert health(channel) == SERVING
        assert client.infer(name, numbers(planes[0], rows[:1])).as_numpy("exit").size == 1
    asyncio.run(repository.close())


def test_health_is_that_of_the_repository(door: GrpcDoor, bundle: Bundle) -> None:
    with grpc.insecure_channel(door.address) as channel:
        assert health(channel) == health(channel, SERVICE) == SERVING
        with pytest.raises(grpc.RpcError) as caught:
            health(channel, "other")
        assert caught.value.code() == grpc.StatusCode.NOT_FOUND
    cold = Repository([lambda on_broken: cold_dataplane(bundle, on_broken)])
    with grpc_door(cold) as door, grpc.insecure_channel(door.address) as channel:
        assert health(channel) == NOT_SERVING


def test_health_is_watched(bundle: Bundle) -> None:
    repository = Repository([lambda on_broken: cold_dataplane(bundle, on_broken)])
    with grpc_door(repository) as door, grpc.insecure_channel(door.address) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch
        seen = watch(health_pb2.HealthCheckRequest(service=SERVICE))
        assert next(seen).status == NOT_SERVING
        door.run(repository.start())
        assert next(seen).status == SERVING
        door.run(door.server.stop(grace_seconds=60))
        assert [answer.status for answer in seen] == [NOT_SERVING]
    asyncio.run(repository.close())


def test_reflection_tells_the_services(door: GrpcDoor) -> None:
    with grpc.insecure_channel(door.address) as channel:
        assert set(ProtoReflectionDescriptorDatabase(channel).get_services()) == {
            SERVICE,
            "grpc.health.v1.Health",
            "grpc.reflection.v1alpha.ServerReflection",
        }


def test_stopping_finishes_what_runs_and_refuses_what_comes(
    dataplane: Dataplane, rows: np.ndarray, gates: list[Gate]
) -> None:
    gates.append(Gate(stage=2))
    with grpc_door(over(dataplane)) as door, grpc.insecure_channel(door.address) as channel:
        call = Stub(channel).ModelInfer.future(message(dataplane, rows[:2], policy="full"))
        assert gates[0].reached.wait(60)
        stopping = asyncio.run_coroutine_threadsafe(door.server.stop(60), door.loop)
        door.run(asyncio.sleep(0))
        with grpc.insecure_channel(door.address) as other:
            with pytest.raises(grpc.RpcError) as caught:
                Stub(other).ModelInfer(message(dataplane, rows[:1]))
            # gRPC itself cancels what comes while its clients are being told to go away
            assert caught.value.code() in (
                grpc.StatusCode.UNAVAILABLE,
                grpc.StatusCode.CANCELLED,
            )
        gates[0].opened.set()
        assert outputs(call.result(60))["exit"].size == 2
        stopping.result(60)


def test_a_call_that_outlives_the_grace_is_cancelled(
    dataplane: Dataplane, rows: np.ndarray, gates: list[Gate]
) -> None:
    gates.append(Gate(stage=2))
    with grpc_door(over(dataplane)) as door, grpc.insecure_channel(door.address) as channel:
        call = Stub(channel).ModelInfer.future(message(dataplane, rows[:2], policy="full"))
        assert gates[0].reached.wait(60)
        door.run(door.server.stop(grace_seconds=0))
        assert isinstance(call.exception(60), grpc.RpcError)


def test_a_message_over_the_limit_is_refused_however_small_it_was_packed(
    door: GrpcDoor, dataplane: Dataplane, rows: np.ndarray
) -> None:
    many = np.zeros((300, *rows.shape[1:]), np.float32)
    assert many.nbytes > LIMITS["max_body_bytes"]
    for compression in (grpc.Compression.NoCompression, grpc.Compression.Gzip):
        with grpc.insecure_channel(door.address, compression=compression) as channel:
            with pytest.raises(grpc.RpcError) as caught:
                Stub(channel).ModelInfer(message(dataplane, many))
            assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
            assert outputs(Stub(channel).ModelInfer(message(dataplane, rows[:1])))


def test_an_answer_may_be_over_the_limit(dataplane: Dataplane) -> None:
    with (
        grpc_door(over(dataplane), max_body_bytes=100) as door,
        grpc.insecure_channel(door.address) as channel,
    ):
        request = pb.ModelMetadataRequest(name=dataplane.name)
        assert Stub(channel).ModelMetadata(request).ByteSize() > 100


def test_calls_over_the_limit_are_refused_and_health_is_not(
    dataplane: Dataplane, rows: np.ndarray, gates: list[Gate]
) -> None:
    gates.append(Gate(stage=1))
    request = message(dataplane, rows[:1])
    own = [("grpc.use_local_subchannel_pool", 1)]
    with (
        grpc_door(over(dataplane), max_parallel=2) as door,
        grpc.insecure_channel(door.address) as channel,
        grpc.insecure_channel(door.address, options=own) as other,
    ):
        stream = Stub(channel).ModelStreamInfer(iter([request]))
        assert gates[0].reached.wait(60)
        call = Stub(channel).ModelInfer.future(request)
        Stub(channel).ServerLive(pb.ServerLiveRequest())  # comes after the call
        with pytest.raises(grpc.RpcError) as caught:
            Stub(other).ModelInfer(request)
        assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert dict(caught.value.trailing_metadata())["retry-after"] == "1"
        assert health(other) == SERVING
        gates[0].opened.set()
        assert call.result(60).outputs
        assert len([*stream]) == 1
        assert Stub(other).ModelInfer(request).outputs


def test_keys_are_asked_for(dataplane: Dataplane, rows: np.ndarray, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text(KEY + "\n")
    settings = Settings(keys_file=keys)
    locks = Locks(settings)
    with (
        grpc_door(over(dataplane), locks=locks) as door,
        triton.InferenceServerClient(door.address) as client,
    ):
        assert client.is_server_live()
        sent = numbers(dataplane, rows[:1])
        error = refused(client.infer, dataplane.name, sent)
        assert error.status() == "StatusCode.UNAUTHENTICATED"
        headers = {"authorization": f"Bearer {KEY}"}
        assert client.infer(dataplane.name, sent, headers=headers).as_numpy("exit").size == 1


async def test_a_port_that_is_taken_is_told(door: GrpcDoor, dataplane: Dataplane) -> None:
    port = int(door.address.rpartition(":")[2])
    with pytest.raises(SettingsError, match=f"OFFRAMP_GRPC_PORT is {port}"):
        await GrpcServer(over(dataplane), Settings(grpc_port=port)).start()
