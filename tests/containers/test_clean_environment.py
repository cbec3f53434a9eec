"""A Bento beside nothing but its own requirements, laid out and started as in an image."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton

from models.bundle import read_bundle
from tests.containers.conftest import BuiltBento
from tests.end_to_end.server import Server, free_port, running
from tests.small_bundles import WIDTH

pytestmark = pytest.mark.slow

NOT_SERVED = ("torch", "calibration", "cli", "sklearn", "typer", "matplotlib", "onnxscript")
ROWS = np.random.default_rng(0).normal(size=(5, WIDTH)).astype(np.float32)


@dataclass(frozen=True)
class Installed:
    """A Bento's directory as an image has it, and an interpreter with its requirements."""

    bento: Path
    python: Path
    model: str

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.python, *arguments],
            cwd=self.bento / "src",
            env={**os.environ, "PYTHONPATH": ""},
            capture_output=True,
            text=True,
        )


@pytest.fixture(scope="module")
def installed(
    bento: Callable[[str], BuiltBento], tmp_path_factory: pytest.TempPathFactory
) -> Installed:
    """The requirements are all there is: pip resolves nothing and adds nothing."""
    built = bento("cpu")
    folder = tmp_path_factory.mktemp("image")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
    python = folder / "venv" / "bin" / "python"
    requirements = built.path / "env" / "python" / "requirements.txt"
    pip = [sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check"]
    install = [*pip, "install", "--quiet", "--no-deps", "--no-compile", "-r", requirements]
    result = subprocess.run(install, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    result = subprocess.run([*pip, "check"], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout
    # `bentoml containerize` puts the models beside the source
    shutil.copytree(built.path, folder / "bento")
    shutil.copytree(built.home / "models", folder / "bento" / "models")
    return Installed(folder / "bento", python, built.model)


@pytest.fixture(scope="module")
def server(installed: Installed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Started by the image's entry point, with an empty BentoML home; SIGTERM ends it with 0."""
    folder = tmp_path_factory.mktemp("served")
    port = free_port()
    environment = {
        "PATH": f"{installed.python.parent}:{os.environ['PATH']}",
        "PYTHONPATH": "",
        "BENTO_PATH": str(installed.bento),
        "BENTOML_HOME": str(folder / "home"),
        "BENTOML_HOST": "127.0.0.1",
        "BENTOML_PORT": str(port),
        "OFFRAMP_BUNDLE": installed.model,
        "OFFRAMP_LANES": "1",
        "OFFRAMP_THREADS": "1",
    }
    entry = ["bash", installed.bento / "env" / "docker" / "entrypoint.sh"]
    with running(entry, port, folder, folder / "log", **environment) as server:
        yield server
        assert server.stop() == []
        assert server.process.returncode == 0


def test_nothing_of_training_is_there(installed: Installed) -> None:
    code = f"""
from importlib.util import find_spec
assert find_spec("service") and find_spec("models") and find_spec("onnxruntime")
print([name for name in {NOT_SERVED} if find_spec(name)])
"""
    result = installed.run("-c", code)
    assert result.stdout.strip() == "[]", result.stderr


def test_it_answers_http(server: Server) -> None:
    answer = httpx.post(f"{server.url}/predict", json={"rows": ROWS.tolist()})
    assert answer.status_code == 200, answer.text
    assert len(answer.json()["rows"]) == len(ROWS)


def test_it_answers_grpc_with_the_version_of_its_bundle(
    server: Server, installed: Installed
) -> None:
    port = re.findall(r"event=grpc_listens port=(\d+)", server.log.read_text())[0]
    name, version = installed.model.split(":")
    manifest = read_bundle(installed.bento / "models" / name / version).manifest
    with triton.InferenceServerClient(f"127.0.0.1:{port}") as client:
        tensor = triton.InferInput(manifest.inputs[0].name, ROWS.shape, "FP32")
        tensor.set_data_from_numpy(ROWS)
        answer = client.infer(manifest.name, [tensor])
        assert answer.get_response().model_version == version
        exits = answer.as_numpy("exit").tolist()
    rows = httpx.post(f"{server.url}/predict", json={"rows": ROWS.tolist()}).json()["rows"]
    assert exits == [row["exit"] for row in rows]


def test_it_serves_files_of_its_page(server: Server) -> None:
    assert httpx.get(f"{server.url}/ui", follow_redirects=True).status_code == 200
