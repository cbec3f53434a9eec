"""Triton's own HTTP clients, unchanged, against the doors on a real port."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import tritonclient.http as sync_client
import tritonclient.http.aio as aio_client
from tritonclient.utils import InferenceServerException

from models.bundle import Bundle
from models.manifest import Manifest
from models.runtime import StageRuntime
from tests.live_server import live_server
from tests.small_bundles import small_bundle

OUTPUTS = ["labels", "probabilities", "exit", "score", "certified"]


@dataclass(frozen=True)
class Served:
    """A model on a port; its rows and the exits where they leave."""

    url: str
    manifest: Manifest
    rows: np.ndarray
    exits: np.ndarray

    @property
    def name(self) -> str:
        return self.manifest.name

    @property
    def version(self) -> str:
        return self.manifest.version


@pytest.fixture(scope="module")
def served(bundle: Bundle, runtime: StageRuntime, rows: np.ndarray) -> Iterator[Served]:
    answers = runtime.all_exits((rows[:12],))
    exits = bundle.manifest.policy.route([exit_answers.score for exit_answers in answers])
    with live_server(bundle, max_rows=64) as server:
        yield Served(server.http, bundle.manifest, rows[:12], exits)


@pytest.fixture
def client(served: Served) -> Iterator[sync_client.InferenceServerClient]:
    with sync_client.InferenceServerClient(served.url) as client:
        yield client


@pytest.fixture
async def aio(served: Served) -> AsyncIterator[aio_client.InferenceServerClient]:
    async with aio_client.InferenceServerClient(served.url) as client:
        yield client


def infer_input(served: Served, binary: bool = True) -> sync_client.InferInput:
    made = sync_client.InferInput(served.manifest.inputs[0].name, list(served.rows.shape), "FP32")
    return made.set_data_from_numpy(served.rows, binary_data=binary)


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("packed", [None, "gzip", "deflate"])
def test_infer_with_every_form_of_body(
    client: sync_client.InferenceServerClient, served: Served, binary: bool, packed: str | None
) -> None:
    outputs = [sync_client.InferRequestedOutput(name, binary_data=binary) for name in OUTPUTS]
    result = client.infer(
        served.name,
        [infer_input(served, binary)],
        outputs=outputs,
        request_id="seven",
        request_compression_algorithm=packed,
        response_compression_algorithm=packed,
    )
    np.testing.assert_array_equal(result.as_numpy("exit"), served.exits)
    assert result.as_numpy("labels").dtype == bool
    assert result.as_numpy("probabilities").shape == (12, len(served.manifest.labels))
    assert result.get_response()["id"] == "seven"


def test_infer_without_outputs_gives_all_of_them(
    client: sync_client.InferenceServerClient, served: Served
) -> None:
    result = client.infer(served.name, [infer_input(served)], model_version=served.version)
    names = [output["name"] for output in result.get_response()["outputs"]]
    assert names == OUTPUTS
    np.testing.assert_array_equal(result.as_numpy("exit"), served.exits)


def test_infer_with_a_subset_of_outputs_in_two_forms(
    client: sync_client.InferenceServerClient, served: Served
) -> None:
    outputs = [
        sync_client.InferRequestedOutput("score", binary_data=False),
        sync_client.InferRequestedOutput("exit", binary_data=True),
    ]
    result = client.infer(served.name, [infer_input(served)], outputs=outputs)
    np.testing.assert_array_equal(result.as_numpy("exit"), served.exits)
    assert result.as_numpy("score").shape == (12,)
    assert result.as_numpy("labels") is None


def test_parameters_priority_and_timeout_reach_the_engine(
    client: sync_client.InferenceServerClient, served: Served
) -> None:
    result = client.infer(
        served.name,
        [infer_input(served)],
        priority=2,
        timeout=30_000_000,
        parameters={"policy": "full"},
    )
    assert set(result.as_numpy("exit").tolist()) == {4}


def test_requests_may_be_sent_in_the_background(
    client: sync_client.InferenceServerClient, served: Served
) -> None:
    pending = [client.async_infer(served.name, [infer_input(served)]) for _ in range(4)]
    for request in pending:
        np.testing.assert_array_equal(request.get_result().as_numpy("exit"), served.exits)


def test_health_metadata_configuration_and_statistics(
    client: sync_client.InferenceServerClient, served: Served
) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(served.name)
    assert client.is_model_ready(served.name, served.version)
    assert not client.is_model_ready(served.name, "1")
    assert not client.is_model_ready("nobody")
    assert client.get_server_metadata()["name"] == "offramp"
    assert client.get_model_metadata(served.name)["versions"] == [served.version]
    assert client.get_model_config(served.name)["max_batch_size"] == 64
    assert client.get_model_repository_index()[0]["state"] == "READY"
    client.infer(served.name, [infer_input(served)])
    for statistics in (
        client.get_inference_statistics(),
        client.get_inference_statistics(served.name, served.version),
    ):
        assert statistics["model_stats"][0]["inference_count"] >= 12


@pytest.mark.parametrize(
    ("call", "status", "words"),
    [
        (lambda c, s: c.infer("nobody", [infer_input(s)]), "404", "nobody"),
        (lambda c, s: c.infer(s.name, [infer_input(s)], model_version="1"), "404", "version"),
        (lambda c, s: c.infer(s.name, []), "400", "inputs"),
        (lambda c, s: c.infer(s.name, [infer_input(s)], sequence_id=3), "400", "sequence_id"),
        (
            lambda c, s: c.infer(
                s.name,
                [infer_input(s)],
                outputs=[sync_client.InferRequestedOutput("labels", class_count=2)],
            ),
            "400",
            "classification",
        ),
        (lambda c, s: c.get_model_metadata("nobody"), "404", "nobody"),
        (lambda c, s: c.load_model(s.name), "403", "OFFRAMP_REPOSITORY_CALLS"),
        (lambda c, s: c.unload_model(s.name), "403", "OFFRAMP_REPOSITORY_CALLS"),
        (lambda c, s: c.register_system_shared_memory("a", "/a", 8), "501", "shared memory"),
        (lambda c, s: c.get_trace_settings(), "501", "trace"),
    ],
)
def test_errors_are_the_clients_exceptions(
    client: sync_client.InferenceServerClient,
    served: Served,
    call: object,
    status: str,
    words: str,
) -> None:
    assert callable(call)
    with pytest.raises(InferenceServerException) as error:
        call(client, served)
    assert error.value.status() == status
    assert words in error.value.message()
    assert client.is_server_live()


def test_shared_memory_is_refused_by_name(
    client: sync_client.InferenceServerClient, served: Served
) -> None:
    sent = sync_client.InferInput(served.manifest.inputs[0].name, list(served.rows.shape), "FP32")
    sent.set_shared_memory("region", served.rows.nbytes)
    with pytest.raises(InferenceServerException, match="shared_memory_region"):
        client.infer(served.name, [sent])


def test_texts_come_as_bytes(tmp_path: Path) -> None:
    bundle = small_bundle(tmp_path / "texts", "text")
    texts = np.array(["w1 w2", "wört", "w3"], object)
    results = []
    with (
        live_server(bundle) as server,
        sync_client.InferenceServerClient(server.http) as client,
    ):
        for binary in (False, True):
            sent = sync_client.InferInput("text", [3], "BYTES")
            sent.set_data_from_numpy(texts, binary_data=binary)
            result = client.infer(bundle.manifest.name, [sent])
            results.append(result.as_numpy("probabilities"))
    np.testing.assert_array_equal(*results)


def test_models_are_loaded_and_unloaded(bundle: Bundle, served: Served) -> None:
    name, sent = served.name, infer_input(served)
    with (
        live_server(bundle, repository_calls=True) as server,
        sync_client.InferenceServerClient(server.http) as client,
    ):
        client.unload_model(name)
        assert not client.is_model_ready(name)
        assert not client.is_server_ready()
        assert client.get_model_repository_index()[0]["state"] == "UNAVAILABLE"
        with pytest.raises(InferenceServerException, match="not loaded"):
            client.infer(name, [sent])
        client.load_model(name)
        assert client.is_model_ready(name)
        np.testing.assert_array_equal(client.infer(name, [sent]).as_numpy("exit"), served.exits)
        with pytest.raises(InferenceServerException, match="as its bundle says"):
            client.load_model(name, config="{}")


async def test_the_asynchronous_client(
    aio: aio_client.InferenceServerClient, served: Served
) -> None:
    assert await aio.is_server_live()
    assert await aio.is_server_ready()
    assert await aio.is_model_ready(served.name)
    assert (await aio.get_model_metadata(served.name))["name"] == served.name
    results = await asyncio.gather(
        *(
            aio.infer(
                served.name,
                [infer_input(served, binary)],
                request_compression_algorithm=packed,
                response_compression_algorithm=packed,
            )
            for binary in (False, True)
            for packed in (None, "gzip", "deflate")
        )
    )
    for result in results:
        np.testing.assert_array_equal(result.as_numpy("exit"), served.exits)
    with pytest.raises(InferenceServerException, match="nobody"):
        await aio.infer("nobody", [infer_input(served)])
