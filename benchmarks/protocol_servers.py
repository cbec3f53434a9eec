"""The servers that are compared, each a process of its own on free ports of the loopback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from time import monotonic, sleep

import psutil
from reliability_server import free_ports

from models.bundle import Bundle

ROOT = Path(__file__).resolve().parent.parent
START_SECONDS, STOP_SECONDS = 90, 20

BENTOML_SERVICE = """
from pathlib import Path
from typing import Annotated, Any

import bentoml
import numpy as np


@bentoml.service(workers=1)
class Bare:
    @bentoml.api
    async def predict(self, rows: list[list[float]]) -> dict[str, Any]:
        return self._answer(np.asarray(rows, np.float32))

    @bentoml.api
    async def upload(
        self, file: Annotated[Path, bentoml.validators.ContentType("application/octet-stream")], /
    ) -> dict[str, Any]:
        return self._answer(np.fromfile(file, np.float32))

    def _answer(self, rows: np.ndarray) -> dict[str, Any]:
        return {"probabilities": [[float(rows.sum())] * LABELS]}
"""
"""Asynchronous, which is BentoML's fastest; binary data come as a file, its only such way."""

MLSERVER_RUNTIME = """
import numpy as np
from mlserver import MLModel
from mlserver.codecs import Base64Codec, NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse


class Trivial(MLModel):
    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        given = payload.inputs[0]
        if given.datatype == "BYTES":
            rows = np.frombuffer(Base64Codec.decode_input(given)[0], np.float32)
        else:
            rows = NumpyCodec.decode_input(given)
        answer = np.full((1, LABELS), rows.sum(), np.float32)
        return InferenceResponse(
            model_name=self.name, outputs=[NumpyCodec.encode_output("probabilities", answer)]
        )
"""


@dataclass(frozen=True)
class Server:
    """A running server; `grpc` is 0 where it has no such port."""

    http: int
    grpc: int = 0


@contextmanager
def offramp(bundle: Bundle, folder: Path) -> Iterator[Server]:
    """The service over a bundle, as `make serve` starts it."""
    server = Server(*free_ports(2))
    environment = {"OFFRAMP_BUNDLE": str(bundle.path), "OFFRAMP_GRPC_PORT": str(server.grpc)}
    command = [bentoml_program(), "serve", "service.app:Offramp", "--port", server.http]
    log = folder / f"offramp-{bundle.manifest.name}.log"
    with running(command, ROOT, log, server, "/readyz", environment):
        yield server


@contextmanager
def bare_bentoml(folder: Path, labels: int) -> Iterator[Server]:
    """A BentoML service of two APIs: `/predict` takes JSON, `/upload` binary data."""
    server = Server(*free_ports(1))
    (folder / "bare.py").write_text(f"LABELS = {labels}\n{BENTOML_SERVICE}")
    command = [bentoml_program(), "serve", "bare:Bare", "--port", server.http]
    with running(command, folder, folder / "bentoml.log", server, "/readyz", {}):
        yield server


@contextmanager
def mlserver(
    python: Path, folder: Path, models: Sequence[str], labels: int, settings: Mapping[str, object]
) -> Iterator[Server]:
    """MLServer with a runtime that adds a row's numbers up.

    python : of MLServer's environment
    settings : of the server, beside the ports
    """
    http, grpc, metrics = free_ports(3)
    ports = {"host": "127.0.0.1", "http_port": http, "grpc_port": grpc, "metrics_port": metrics}
    (folder / "settings.json").write_text(json.dumps({**ports, **settings}))
    for model in models:
        (folder / model).mkdir()
        (folder / model / "trivial.py").write_text(f"LABELS = {labels}\n{MLSERVER_RUNTIME}")
        facts = {"name": model, "implementation": "trivial.Trivial"}
        (folder / model / "model-settings.json").write_text(json.dumps(facts))
    server = Server(http, grpc)
    command = [python.parent / "mlserver", "start", folder]
    with running(command, folder, folder / "mlserver.log", server, "/v2/health/ready", {}):
        yield server


@contextmanager
def running(
    command: Sequence[object],
    folder: Path,
    log: Path,
    server: Server,
    ready: str,
    environment: Mapping[str, str],
) -> Iterator[psutil.Process]:
    """Run a server from when it is ready to the end of the block.

    Parameters
    ----------
    folder : to run it in
    log : file for what it prints
    ready : path that answers 200 when it is
    environment : beside that of this process
    """
    words = [str(part) for part in command]
    with log.open("wb") as output:
        process = subprocess.Popen(
            words,
            cwd=folder,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "BENTOML_DO_NOT_TRACK": "True", **environment},
            start_new_session=True,
        )
    try:
        if not _comes_up(process, server.http, ready):
            raise SystemExit(
                f"a server did not start: {' '.join(words)}\n{log.read_text()[-4000:]}"
            )
        yield psutil.Process(process.pid)
    finally:
        _stop(process)


def _comes_up(process: subprocess.Popen[bytes], port: int, path: str) -> bool:
    deadline = monotonic() + START_SECONDS
    while process.poll() is None and monotonic() < deadline:
        connection = HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request("GET", path)
            if connection.getresponse().status == 200:
                return True
        except OSError:
            pass
        finally:
            connection.close()
        sleep(0.1)
    return False


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End it with all its workers, which have sessions of their own."""
    if process.poll() is not None:
        return
    parent = psutil.Process(process.pid)
    family = [parent, *parent.children(recursive=True)]
    process.terminate()
    _, alive = psutil.wait_procs(family, timeout=STOP_SECONDS)
    for survivor in alive:
        survivor.kill()
    process.wait()


def bentoml_program() -> Path:
    """The command of this environment."""
    return Path(sys.executable).parent / "bentoml"
