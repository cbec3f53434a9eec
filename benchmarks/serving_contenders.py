"""Who is compared: offramp and its peers, each a server of its own on the loopback."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import psutil
from peers.peer_model import DEVICE, FOLDER
from protocol_servers import ROOT, Server, bentoml_program, running
from reliability_server import APP, free_ports
from serving_case import INFER, PEER, PREDICT, Case, Format
from serving_load import Door, GrpcDoor, JsonDoor
from serving_models import write_eager, write_peer

from models.bundle import Bundle

PEERS = Path(__file__).resolve().parent / "peers"
MIB = 2**20

Way = Literal["JSON", "gRPC"]
Device = Literal["cpu", "cuda"]


@dataclass(frozen=True)
class Batching:
    """Settings of adaptive batching: rows of a batch at most, and milliseconds.

    The milliseconds are those that BentoML's batching may let a request take, and those that
    MLServer's waits for more requests. With 0 rows there is no batching at all.
    """

    rows: int = 0
    milliseconds: int = 0

    def __str__(self) -> str:
        return f"{self.rows} rows, {self.milliseconds:,} ms" if self.rows else "none"


def _settings(*milliseconds: int) -> tuple[Batching, ...]:
    """The one in the middle first."""
    return (
        *(Batching(rows, ms) for rows in (16, 4, 64) for ms in milliseconds),
        Batching(),
    )


BENTOML_SETTINGS = _settings(10_000, 2_000)
MLSERVER_SETTINGS = _settings(2, 20)


@dataclass(frozen=True)
class Contender:
    """One line of the tables.

    key : a to f, as in the tables
    kind : of server
    folder : the bundle, or what a peer serves
    model : its name for the Open Inference Protocol
    batching : of a peer
    device : where the model runs
    """

    key: str
    name: str
    kind: Literal["offramp", "BentoML", "eager", "MLServer"]
    folder: Path
    model: str = PEER
    mode: str = "rebatch"
    batching: Batching = Batching()
    device: Device = "cpu"

    @property
    def ways(self) -> tuple[Way, ...]:
        """The doors it has; BentoML has no gRPC."""
        return ("JSON", "gRPC") if self.kind in ("offramp", "MLServer") else ("JSON",)

    def format(self, way: Way) -> Format:
        """How its requests are written."""
        if way == "gRPC":
            return "OIP gRPC"
        return "OIP JSON" if self.kind == "MLServer" else "predict"


@dataclass(frozen=True)
class RunningContender:
    """A contender whose server is up."""

    contender: Contender
    server: Server
    process: psutil.Process

    def door(self, way: Way) -> Door:
        """New connections to it."""
        if way == "gRPC":
            return GrpcDoor(self.server.grpc)
        oip = self.contender.kind == "MLServer"
        path = INFER.format(self.contender.model) if oip else PREDICT
        return JsonDoor(self.server.http, path)

    @property
    def cpu_seconds(self) -> float:
        """Of all its processes, since they began."""
        times = [process.cpu_times() for process in self._family]
        return sum(spent.user + spent.system for spent in times)

    @property
    def mib(self) -> float:
        """Memory that all its processes have of their own."""
        return sum(process.memory_full_info().uss for process in self._family) / MIB

    @property
    def _family(self) -> list[psutil.Process]:
        return [self.process, *self.process.children(recursive=True)]


def contenders(
    case: Case, folder: Path, with_mlserver: bool, device: Device = "cpu"
) -> list[Contender]:
    """All of one case; what the peers serve is written into `folder`.

    On a device the last is there where torch has one, too.
    """
    bundle, nearest = case.bundle, case.nearest
    full = write_peer(folder / "full", bundle, bundle.manifest.depth)
    cut = write_peer(folder / "static", nearest, case.static)
    eager = write_eager(folder / "eager", bundle)
    ours = [_offramp("a", "offramp, certified policy", bundle)]
    if nearest is not bundle:
        ours.append(_offramp("a'", "offramp, certified towards the labels", nearest))
    ours.append(replace(_offramp("b", "offramp, exits off", bundle), mode="monolith"))
    peers = [
        Contender("c", "BentoML, full model", "BentoML", full),
        Contender("d", f"BentoML, cut off at {case.static_layer}", "BentoML", cut),
    ]
    if with_mlserver:
        peers.append(Contender("e", "MLServer, full model", "MLServer", full))
    peers.append(Contender("f", "BentoML, exits in eager PyTorch", "eager", eager))
    if device == "cuda" and not _torch_has_cuda():
        peers.pop()
    return [
        replace(contender, device=device)
        for contender in (*ours, *peers)
        if contender.key in case.keys
    ]


def _torch_has_cuda() -> bool:
    if find_spec("torch") is None:
        return False
    import torch

    return torch.cuda.is_available()


@contextmanager
def started(
    contender: Contender, case: Case, folder: Path, mlserver_python: Path | None
) -> Iterator[RunningContender]:
    """Start its server on the cores of this thread.

    Parameters
    ----------
    folder : for logs and settings
    mlserver_python : of MLServer's environment
    """
    folder.mkdir(parents=True, exist_ok=True)
    if contender.kind == "offramp":
        starting = _start_offramp(contender, folder)
    elif contender.kind == "MLServer":
        assert mlserver_python is not None
        starting = _start_mlserver(contender, folder, mlserver_python)
    else:
        starting = _start_bentoml(contender, case, folder)
    with starting as (server, process):
        yield RunningContender(contender, server, process)


def _offramp(key: str, name: str, bundle: Bundle) -> Contender:
    return Contender(key, name, "offramp", bundle.path, bundle.manifest.name)


@contextmanager
def _start_offramp(contender: Contender, folder: Path) -> Iterator[tuple[Server, psutil.Process]]:
    server = Server(*free_ports(2))
    environment = {
        "OFFRAMP_BUNDLE": str(contender.folder.resolve()),
        "OFFRAMP_GRPC_PORT": str(server.grpc),
        "OFFRAMP_MODE": contender.mode,
        "OFFRAMP_DEVICE": contender.device,
    }
    command = [bentoml_program(), "serve", APP, "--port", server.http]
    log = folder / "server.log"
    with running(command, ROOT, log, server, "/readyz", environment) as process:
        yield server, process


@contextmanager
def _start_bentoml(
    contender: Contender, case: Case, folder: Path
) -> Iterator[tuple[Server, psutil.Process]]:
    server = Server(*free_ports(1))
    environment = _environment(contender) | {
        "PEER_KIND": "text" if case.is_text else "numbers",
        "PEER_ENGINE": "eager" if contender.kind == "eager" else "onnx",
    }
    command = [bentoml_program(), "serve", "bentoml_peer:Peer", "--port", server.http]
    log = folder / "server.log"
    with running(command, PEERS, log, server, "/readyz", environment) as process:
        yield server, process


@contextmanager
def _start_mlserver(
    contender: Contender, folder: Path, python: Path
) -> Iterator[tuple[Server, psutil.Process]]:
    """One process without debugging output, which is its quickest here."""
    http, grpc, metrics = free_ports(3)
    settings = {
        "host": "127.0.0.1",
        "http_port": http,
        "grpc_port": grpc,
        "metrics_port": metrics,
        "parallel_workers": 0,
        "debug": False,
    }
    (folder / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
    batching = contender.batching
    facts: dict[str, object] = {"name": PEER, "implementation": "mlserver_peer.Peer"}
    if batching.rows:
        facts |= {
            "max_batch_size": batching.rows,
            "max_batch_time": batching.milliseconds / 1000,
        }
    (folder / "model-settings.json").write_text(json.dumps(facts), encoding="utf-8")
    for file in ("mlserver_peer.py", "peer_model.py"):
        shutil.copy(PEERS / file, folder / file)
    server = Server(http, grpc)
    command = [python.absolute().parent / "mlserver", "start", folder]
    log = folder / "server.log"
    environment = _environment(contender)
    with running(command, folder, log, server, "/v2/health/ready", environment) as process:
        yield server, process


def _environment(contender: Contender) -> Mapping[str, str]:
    return {
        FOLDER: str(contender.folder.resolve()),
        DEVICE: contender.device,
        "PEER_BATCH": str(contender.batching.rows),
        "PEER_LATENCY": str(contender.batching.milliseconds),
        "TOKENIZERS_PARALLELISM": "false",
    }
