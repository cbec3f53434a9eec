"""Triton's four clients, unchanged, against the running server: what BentoML adds is there too."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.grpc.aio
import tritonclient.http
import tritonclient.http.aio
from tritonclient.utils import InferenceServerException

from models.bundle import Bundle
from service.output_tensors import OUTPUTS, output_tensors
from tests.conftest import ROOT
from tests.end_to_end.server import free_port, running
from tests.service.conftest import serving
from tests.service.grpc_door import Caught
from tests.small_bundles import small_bundle

pytestmark = pytest.mark.slow

BENTOML = Path(sys.executable).parent / "bentoml"
TEXTS = ["what a day", "no", "a longer one, of which nobody knows what it means", "", "no"]
CLIENTS: list[ModuleType] = [tritonclient.http, tritonclient.grpc]
ASYNC_CLIENTS: list[ModuleType] = [tritonclient.http.aio, tritonclient.grpc.aio]


def short(module: ModuleType) -> str:
    return module.__name__.removeprefix("tritonclient.")


@dataclass(frozen=True)
class Served:
    """A running server of a small model of texts.

    answers : to `TEXTS`, as the dataplane gives them without any door
    """

    name: str
    http: str
    grpc: str
    answers: dict[str, np.ndarray]

    def url(self, module: ModuleType) -> str:
        return self.http if ".http" in module.__name__ else self.grpc

    def check(self, result: Any, names: Any = OUTPUTS) -> None:
        for name in names:
            np.testing.assert_allclose(result.as_numpy(name), self.answers[name], atol=1e-4)


async def answers_of(bundle: Bundle) -> dict[str, np.ndarray]:
    async with serving(bundle) as plane:
        return {t.name: t.array for t in output_tensors(await plane.predict(TEXTS))}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("triton")
    bundle = small_bundle(folder / "bundle", "text")
    answers = asyncio.run(answers_of(bundle))
    http, grpc = free_port(), free_port()
    settings = {
        "OFFRAMP_BUNDLE": str(bundle.path),
        "OFFRAMP_GRPC_PORT": str(grpc),
        "OFFRAMP_REPOSITORY_CALLS": "true",
    }
    command = [BENTOML, "serve", "service.app:Offramp", "--port", http]
    with running(command, http, ROOT, folder / "log", **settings):
        name = bundle.manifest.name
        yield Served(name, f"127.0.0.1:{http}", f"127.0.0.1:{grpc}", answers)


def rows(module: ModuleType, texts: list[str] = TEXTS) -> list[Any]:
    made = module.InferInput("text", [len(texts)], "BYTES")
    made.set_data_from_numpy(np.array([text.encode() for text in texts], object))
    return [made]


@pytest.fixture(params=CLIENTS, ids=short)
def client(request: pytest.FixtureRequest, served: Served) -> Iterator[Any]:
    with request.param.InferenceServerClient(served.url(request.param)) as client:
        client.module = request.param
        yield client


def test_health_and_metadata(client: Any, served: Served) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(served.name)
    assert not client.is_model_ready("nobody")
    metadata = client.get_model_metadata(served.name)
    outputs = metadata["outputs"] if isinstance(metadata, dict) else metadata.outputs
    assert len(outputs) == len(OUTPUTS)
    assert client.get_model_config(served.name)
    assert client.get_server_metadata()


def test_all_outputs_or_some(client: Any, served: Served) -> None:
    served.check(client.infer(served.name, rows(client.module)))
    wanted = [client.module.InferRequestedOutput(name) for name in ("exit", "labels")]
    result = client.infer(served.name, rows(client.module), outputs=wanted, request_id="seven")
    served.check(result, ("exit", "labels"))
    assert result.as_numpy("score") is None


def test_outputs_as_json(served: Served) -> None:
    http = tritonclient.http
    wanted = [http.InferRequestedOutput(name, binary_data=False) for name in OUTPUTS]
    with http.InferenceServerClient(served.http) as client:
        served.check(client.infer(served.name, rows(http), outputs=wanted))


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"policy": "fastest"}, "policy: found 'fastest', expected 'certified'"),
        ({"colour": "red"}, "found the unknown 'colour'"),
        ({"max_exit": 99}, "max_exit: found 99"),
    ],
)
def test_mistakes_are_told(
    client: Any, served: Served, parameters: dict[str, Any], words: str
) -> None:
    with pytest.raises(InferenceServerException, match=words):
        client.infer(served.name, rows(client.module), parameters=parameters)
    with pytest.raises(InferenceServerException, match="found no model 'nobody'"):
        client.infer("nobody", rows(client.module))
    served.check(client.infer(served.name, rows(client.module)))


def test_a_client_that_gives_up_costs_nobody_else(served: Served) -> None:
    grpc = tritonclient.grpc
    with grpc.InferenceServerClient(served.grpc) as client:
        with pytest.raises(InferenceServerException, match=r"(?i)deadline"):
            client.infer(served.name, rows(grpc, ["no"] * 200), client_timeout=1e-4)
        served.check(client.infer(served.name, rows(grpc)))


def test_statistics_count(client: Any, served: Served) -> None:
    def count() -> int:
        found = client.get_inference_statistics(served.name)
        stats = found["model_stats"] if isinstance(found, dict) else found.model_stats
        first = stats[0]
        return int(first["inference_count"] if isinstance(first, dict) else first.inference_count)

    before = count()
    client.infer(served.name, rows(client.module))
    assert count() == before + len(TEXTS)


def test_rows_are_streamed(served: Served) -> None:
    caught = Caught()
    grpc = tritonclient.grpc
    with grpc.InferenceServerClient(served.grpc) as client:
        client.start_stream(caught)
        client.async_stream_infer(served.name, rows(grpc), request_id="one")
        client.stop_stream()  # waits for what was asked
    places = [place for result in caught.results for place in result.as_numpy("row").tolist()]
    exits = [number for result in caught.results for number in result.as_numpy("exit").tolist()]
    assert sorted(places) == list(range(len(TEXTS)))
    assert exits == served.answers["exit"][places].tolist()


def test_a_stream_may_be_cancelled(served: Served) -> None:
    caught = Caught()
    grpc = tritonclient.grpc
    with grpc.InferenceServerClient(served.grpc) as client:
        client.start_stream(caught)
        for _ in range(20):
            client.async_stream_infer(served.name, rows(grpc, ["no"] * 200))
        client.stop_stream(cancel_requests=True)
        served.check(client.infer(served.name, rows(grpc)))


@pytest.mark.parametrize("module", ASYNC_CLIENTS, ids=short)
async def test_asynchronous_clients(served: Served, module: ModuleType) -> None:
    async with module.InferenceServerClient(served.url(module)) as client:
        assert await client.is_server_ready()
        asked = [client.infer(served.name, rows(module)) for _ in range(8)]
        for result in await asyncio.gather(*asked):
            served.check(result)


def test_models_are_unloaded_and_loaded(client: Any, served: Served) -> None:
    client.unload_model(served.name)
    assert not client.is_model_ready(served.name)
    with pytest.raises(InferenceServerException, match="not loaded"):
        client.infer(served.name, rows(client.module))
    index = client.get_model_repository_index()
    models = index if isinstance(index, list) else index.models
    assert len(models) == 1
    client.load_model(served.name)
    assert client.is_model_ready(served.name)
    served.check(client.infer(served.name, rows(client.module)))
