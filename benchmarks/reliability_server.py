"""The service as `make serve` starts it: a process of its own, on free ports of the loopback."""

from __future__ import annotations

import os
import re
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import httpx
import psutil
from prometheus_client.parser import text_string_to_metric_families

ROOT = Path(__file__).resolve().parent.parent
APP = "service.app:Offramp"
START_SECONDS, STOP_SECONDS, CALL_SECONDS = 120.0, 40.0, 10.0
LOOK_SECONDS = 0.05


class NotServing(RuntimeError):
    """The server ended, or did not become ready; with the end of its log."""


@dataclass
class ServiceProcess:
    """A started server, ready or not.

    process : BentoML's supervisor, whose child is the worker
    http, grpc : ports
    log : the file that its output goes to
    """

    process: subprocess.Popen[bytes]
    http: int
    grpc: int
    log: Path
    client: httpx.Client = field(default_factory=partial(httpx.Client, timeout=CALL_SECONDS))

    @property
    def url(self) -> str:
        """Of the HTTP port."""
        return f"http://127.0.0.1:{self.http}"

    @cached_property
    def worker(self) -> psutil.Process:
        """The process that answers."""
        children = psutil.Process(self.process.pid).children()
        return next(child for child in children if "worker" in " ".join(child.cmdline()))

    def get(self, path: str) -> httpx.Response:
        """GET; raises httpx.TransportError where nothing answers."""
        return self.client.get(self.url + path)

    def post(self, path: str, body: Any = None) -> httpx.Response:
        """POST of JSON; raises httpx.TransportError where nothing answers."""
        return self.client.post(self.url + path, json=body)

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples that have these labels, as `/metrics` shows them."""
        families = text_string_to_metric_families(self.get("/metrics").text)
        samples = (sample for family in families for sample in family.samples)
        return sum(
            s.value for s in samples if s.name == name and labels.items() <= s.labels.items()
        )

    def events(self, name: str) -> list[str]:
        """Lines of the log of this event."""
        lines = self.log.read_text(errors="replace").splitlines()
        return [line for line in lines if re.search(rf"\bevent={name}\b", line)]

    def wait_until_ready(self, seconds: float = START_SECONDS) -> None:
        """Until `/readyz` says yes.

        Raises
        ------
        NotServing
            When it has ended, or has not become ready in time.
        """
        end = time.monotonic() + seconds
        while time.monotonic() < end and self.process.poll() is None:
            with suppress(httpx.TransportError):
                if self.get("/readyz").status_code == httpx.codes.OK:
                    return
            time.sleep(LOOK_SECONDS)
        raise NotServing(f"{self.url} is not ready\n{self.log.read_text(errors='replace')[-4000:]}")

    def ends(self, seconds: float) -> int | None:
        """The exit status, or None when it has not ended by itself after so many seconds."""
        with suppress(subprocess.TimeoutExpired):
            return self.process.wait(seconds)
        return None

    def stop(self) -> None:
        """SIGTERM, then the end of whatever is left: the worker has a session of its own."""
        self.client.close()
        with suppress(psutil.NoSuchProcess):
            parent = psutil.Process(self.process.pid)
            family = [parent, *parent.children(recursive=True)]
            self.process.terminate()
            for survivor in psutil.wait_procs(family, timeout=STOP_SECONDS)[1]:
                survivor.kill()
        self.process.wait()


def start_service(
    folder: Path,
    app: str = APP,
    cwd: Path = ROOT,
    files: int = 0,
    ports: Sequence[int] = (),
    within: Sequence[str] = (),
    **environment: str,
) -> ServiceProcess:
    """Start a server and do not wait for it.

    Parameters
    ----------
    folder : where its log goes
    app : the service, to be imported in `cwd`
    files : file descriptors that it may open; 0 leaves the limit as it is
    ports : of HTTP and of gRPC; by default free ones
    within : a command that becomes the one that follows it, such as `unshare --mount`
    environment : its settings, such as OFFRAMP_BUNDLE
    """
    http, grpc = ports or free_ports(2)
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / f"server-{http}.log"
    settings = {"BENTOML_DO_NOT_TRACK": "True", "OFFRAMP_GRPC_PORT": str(grpc), **environment}
    bentoml = str(Path(sys.executable).parent / "bentoml")
    command = [bentoml, "serve", app, "--host", "127.0.0.1", "--port", str(http)]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*within, *command],
            cwd=cwd,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **settings},
            start_new_session=True,
        )
    if files:
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (files, files))
    return ServiceProcess(process, http, grpc, log)


@contextmanager
def running_service(folder: Path, **chosen: Any) -> Iterator[ServiceProcess]:
    """A server from when it is ready to the end of the block; `chosen` as in `start_service`."""
    server = start_service(folder, **chosen)
    try:
        server.wait_until_ready()
        yield server
    finally:
        server.stop()


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on; all held until the last is found, so that they differ."""
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]
    finally:
        for probe in probes:
            probe.close()
