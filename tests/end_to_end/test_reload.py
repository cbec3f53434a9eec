"""Models that are loaded again under load, on a real server with real sockets and signals."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import psutil
import pytest
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

from models.bundle import MODEL, Bundle, write_bundle
from tests.conftest import ROOT
from tests.end_to_end.server import ALONE, Server, free_port, running
from tests.small_bundles import small_bundle, small_image

pytestmark = pytest.mark.slow

BENTOML = Path(sys.executable).parent / "bentoml"
NUMBERS, IMAGE = "small-numbers", "small-image"
ROWS = np.linspace(-1, 1, 30, dtype=np.float32).reshape(5, 6)
STARTED = "Service offramp initialized"

HUNG_UP = """
import os
import signal
import sys

from service.app import Offramp

if "worker" in sys.argv[0]:  # before it can have a handler
    os.kill(os.getpid(), signal.SIGHUP)
    os.kill(os.getppid(), signal.SIGHUP)
"""
"""The service, whose worker is sent SIGHUP while it starts."""


@dataclass
class Reloaded:
    """A server of two models whose bundles are replaced; `versions` are those of `bundles`."""

    server: Server
    bundles: list[Bundle]
    place: Path
    grpc: str

    @property
    def versions(self) -> list[str]:
        return [bundle.manifest.digest[:12] for bundle in self.bundles]

    @property
    def log(self) -> str:
        return self.server.log.read_text()

    @property
    def supervisor(self) -> psutil.Process:
        return psutil.Process(self.server.process.pid)

    def index(self) -> dict[str, dict[str, str]]:
        models = httpx.post(f"{self.server.url}/v2/repository/index").json()
        return {model["name"]: model for model in models}

    def put(self, bundle: Bundle) -> None:
        """In the place of the one that is served, in one step."""
        write_bundle(self.place, bundle.manifest, bundle.files, force=True)

    def serve(self, number: int) -> None:
        """Put it there, and wait until the watch has had it loaded."""
        self.put(self.bundles[number])
        wait_until(lambda: self.index()[NUMBERS]["version"] == self.versions[number])

    def loads(self, outcome: str, name: str = NUMBERS) -> float:
        series = f'offramp_loads_total{{model="{name}",outcome="{outcome}"}} '
        lines = httpx.get(f"{self.server.url}/metrics").text.splitlines()
        return sum(float(line.removeprefix(series)) for line in lines if line.startswith(series))


def wait_until(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


@pytest.fixture(scope="module")
def reloaded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reloaded]:
    folder = tmp_path_factory.mktemp("reload")
    bundles = [small_bundle(folder / str(seed), "numbers", seed) for seed in range(2)]
    place = Path(shutil.copytree(bundles[0].path, folder / "place"))
    image = small_bundle(folder / "image", "image")
    (folder / "hung_up.py").write_text(HUNG_UP)
    port, grpc_port = free_port(), free_port()
    command = [BENTOML, "serve", "hung_up:Offramp", "--host", "127.0.0.1", "--port", port]
    settings = {
        "PYTHONPATH": str(ROOT),
        "OFFRAMP_BUNDLE": f"{place}, {image.path}",
        "OFFRAMP_LANES": "1",
        "OFFRAMP_WATCH_SECONDS": "0.05",
        "OFFRAMP_REPOSITORY_CALLS": "true",
        "OFFRAMP_GRPC_PORT": str(grpc_port),
    }
    with running(command, port, folder, folder / "log", **settings) as server:
        yield Reloaded(server, bundles, place, f"127.0.0.1:{grpc_port}")


def test_a_hangup_while_it_starts_does_no_harm(reloaded: Reloaded) -> None:
    wait_until(lambda: reloaded.log.count(f"event=reload model={IMAGE} by=signal") >= 1)
    wait_until(lambda: reloaded.loads("ok", IMAGE) >= 1)
    assert reloaded.log.count(STARTED) == 1


def predict(url: str, rows: Any, name: str) -> httpx.Response:
    return httpx.post(f"{url}/predict?model={name}", json={"rows": rows})


def test_each_model_is_reached_by_its_name(reloaded: Reloaded) -> None:
    url = reloaded.server.url
    index = reloaded.index()
    assert list(index) == [NUMBERS, IMAGE]
    assert {model["state"] for model in index.values()} == {"READY"}
    default = httpx.post(f"{url}/predict", json={"rows": ROWS.tolist()})
    assert default.json()["model"] == NUMBERS
    assert predict(url, ROWS.tolist(), NUMBERS).json()["rows"] != []
    answer = httpx.post(
        f"{url}/predict",
        params={"model": IMAGE, "policy": "exit:1"},
        content=small_image(),
        headers={"content-type": "image/png"},
    )
    assert (answer.json()["model"], answer.json()["rows"][0]["exit"]) == (IMAGE, 1)
    unknown = predict(url, ROWS.tolist(), "nobody")
    assert unknown.status_code == 404
    assert f"expected '{NUMBERS}', '{IMAGE}'" in unknown.json()["error"]
    for name in (NUMBERS, IMAGE):
        metadata = httpx.get(f"{url}/v2/models/{name}").json()
        assert metadata["versions"] == [index[name]["version"]]
        document = httpx.get(f"{url}/openapi.json", params={"model": name}).json()
        assert name in document["info"]["title"]
        assert ("parameters" in document["paths"]["/predict"]["post"]) == (name == IMAGE)
    metrics = httpx.get(f"{url}/metrics").text
    for name in (NUMBERS, IMAGE):
        assert f'offramp_requests_total{{model="{name}",outcome="ok"}}' in metrics


@pytest.mark.parametrize("whom", ["supervisor", "worker"])
def test_a_hangup_loads_all_models_in_the_same_worker(reloaded: Reloaded, whom: str) -> None:
    before = reloaded.supervisor.children()
    loads = reloaded.loads("ok"), reloaded.loads("ok", IMAGE)
    process = reloaded.supervisor if whom == "supervisor" else before[0]
    process.send_signal(signal.SIGHUP)
    wait_until(lambda: (reloaded.loads("ok"), reloaded.loads("ok", IMAGE)) > loads)
    wait_until(lambda: reloaded.loads("ok", IMAGE) > loads[1])
    assert reloaded.supervisor.children() == before
    assert reloaded.log.count(STARTED) == 1


def test_a_changed_bundle_is_loaded_and_a_bad_one_is_refused_once(reloaded: Reloaded) -> None:
    reloaded.serve(1)
    ok, refused = reloaded.loads("ok"), reloaded.loads("refused")
    whole = (reloaded.bundles[0].path / MODEL).read_bytes()
    reloaded.put(reloaded.bundles[0])
    wait_until(lambda: reloaded.loads("ok") == ok + 1)
    # copied over it in place, and cut short
    shutil.copy(reloaded.bundles[1].path / "manifest.json", reloaded.place)
    (reloaded.place / MODEL).write_bytes(whole[: len(whole) // 2])
    wait_until(lambda: reloaded.loads("refused") > refused)
    assert reloaded.index()[NUMBERS]["version"] == reloaded.versions[0]
    (reloaded.place / MODEL).write_bytes((reloaded.bundles[1].path / MODEL).read_bytes())
    wait_until(lambda: reloaded.index()[NUMBERS]["version"] == reloaded.versions[1])
    assert "event=load_failed model=small-numbers" in reloaded.log
    assert "altered or truncated" in reloaded.log


class Hammer:
    """Clients that ask without a pause, and look who has answered.

    expected : by version, what it answers to `ROWS`: probabilities (rows, labels)
    seen : the versions that answered, by the kind of client
    """

    def __init__(self, url: str, address: str, expected: dict[str, np.ndarray]) -> None:
        self.url, self.address, self.expected = url, address, expected
        self.seen: dict[str, list[str]] = {}
        self.done = threading.Event()

    def run(self, kind: str, answers: Callable[[], Iterator[tuple[str, np.ndarray]]]) -> None:
        seen = self.seen.setdefault(kind, [])
        for version, probabilities in answers():
            np.testing.assert_allclose(probabilities, self.expected[version], atol=1e-4)
            seen.append(version)
            if self.done.is_set():
                return

    def predict(self) -> Iterator[tuple[str, np.ndarray]]:
        with httpx.Client() as client:
            while True:
                response = client.post(f"{self.url}/predict", json={"rows": ROWS.tolist()})
                assert response.status_code == 200, response.text
                rows = response.json()["rows"]
                values = np.array([list(row["probabilities"].values()) for row in rows])
                yield response.json()["version"], values

    def oip(self) -> Iterator[tuple[str, np.ndarray]]:
        tensor = {"name": "x", "shape": ROWS.shape, "datatype": "FP32", "data": ROWS.tolist()}
        body = {"inputs": [tensor], "outputs": [{"name": "probabilities"}]}
        with httpx.Client() as client:
            while True:
                response = client.post(f"{self.url}/v2/models/{NUMBERS}/infer", json=body)
                assert response.status_code == 200, response.text
                (output,) = response.json()["outputs"]
                yield (
                    response.json()["model_version"],
                    np.reshape(output["data"], output["shape"]),
                )

    def rpc(self) -> Iterator[tuple[str, np.ndarray]]:
        with grpc.insecure_channel(self.address) as channel:
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            while True:
                response = stub.ModelInfer(message(), timeout=60)
                yield response.model_version, tensor_of(response, "probabilities")

    def rpc_stream(self) -> Iterator[tuple[str, np.ndarray]]:
        """One call for all requests; all parts of an answer have to be of one version."""
        asked = threading.Semaphore(1)

        def requests() -> Iterator[Any]:
            while asked.acquire() and not self.done.is_set():
                yield message()

        with grpc.insecure_channel(self.address) as channel:
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            versions: set[str] = set()
            values = np.full((len(ROWS), self.labels), np.nan)
            for part in stub.ModelStreamInfer(requests()):
                assert not part.error_message
                response = part.infer_response
                versions.add(response.model_version)
                values[tensor_of(response, "row")] = tensor_of(response, "probabilities")
                if response.parameters["triton_final_response"].bool_param:
                    (version,) = versions
                    yield version, values
                    versions, values = set(), np.full_like(values, np.nan)
                    asked.release()

    @property
    def labels(self) -> int:
        return next(iter(self.expected.values())).shape[1]


DTYPES = {"FP32": np.float32, "INT64": np.int64, "INT32": np.int32}


def message() -> Any:
    request = pb.ModelInferRequest(model_name=NUMBERS, raw_input_contents=[ROWS.tobytes()])
    request.inputs.add(name="x", datatype="FP32", shape=ROWS.shape)
    return request


def tensor_of(response: Any, name: str) -> np.ndarray:
    pairs = zip(response.outputs, response.raw_output_contents, strict=True)
    ((output, content),) = [pair for pair in pairs if pair[0].name == name]
    return np.frombuffer(content, DTYPES[output.datatype]).reshape(output.shape)


def test_no_request_fails_and_none_is_answered_by_two_versions(reloaded: Reloaded) -> None:
    expected = {}
    for number, version in enumerate(reloaded.versions):
        reloaded.serve(number)
        client = Hammer(reloaded.server.url, reloaded.grpc, {})
        answered, expected[version] = next(client.rpc())
        assert answered == version
    one, other = expected.values()
    assert np.abs(one - other).max() > 0.1
    hammer = Hammer(reloaded.server.url, reloaded.grpc, expected)
    clients = (hammer.predict, hammer.oip, hammer.rpc, hammer.rpc_stream)
    with ThreadPoolExecutor(2 * len(clients)) as threads:
        running = [
            threads.submit(hammer.run, f"{client.__name__}-{number}", client)
            for client in clients
            for number in range(2)
        ]
        try:
            for turn in range(12):
                reloaded.serve(turn % 2)
        finally:
            hammer.done.set()
    for client in running:
        client.result()
    assert len(hammer.seen) == len(running)
    for versions in hammer.seen.values():
        changes = sum(a != b for a, b in pairwise(versions))
        assert changes >= 6, versions


@pytest.mark.parametrize(
    ("names", "words"),
    [("{0},{1}", "two bundles of the model 'small-numbers'"), ("{0},", "found an empty name")],
)
def test_bundles_that_cannot_be_served_together_do_not_start(
    tmp_path: Path, names: str, words: str
) -> None:
    bundles = [small_bundle(tmp_path / str(seed), "numbers", seed).path for seed in range(2)]
    result = subprocess.run(
        [BENTOML, "serve", "service.app:Offramp", "--host", "127.0.0.1", "--port", "0"],
        cwd=ROOT,
        env={**os.environ, **ALONE, "OFFRAMP_BUNDLE": names.format(*bundles)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    output = result.stdout + result.stderr
    assert result.returncode != 0
    assert words in output
    assert "Traceback" not in output
