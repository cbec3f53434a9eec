"""Runs a server command, and shows that it leaves no process behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

START_SECONDS = 60
STOP_SECONDS = 30
ALONE = {"BENTOML_DO_NOT_TRACK": "True", "OFFRAMP_GRPC_PORT": "0"}
"""Another server may have the usual port."""


@dataclass
class Server:
    """A running server.

    url : where it answers
    log : the file that its output goes to
    """

    process: subprocess.Popen[bytes]
    url: str
    log: Path

    def stop(self) -> list[psutil.Process]:
        """SIGTERM to the process that was started; returns what outlived it, after killing it.

        The server's worker has a session of its own: killing the process group would miss it.
        """
        parent = psutil.Process(self.process.pid)
        family = [parent, *parent.children(recursive=True)]
        self.process.send_signal(signal.SIGTERM)
        _, alive = psutil.wait_procs(family, timeout=STOP_SECONDS)
        for survivor in alive:
            survivor.kill()
        self.process.wait()
        return alive


@contextmanager
def running(
    command: Sequence[object], port: int, cwd: Path, log: Path, **environment: str
) -> Iterator[Server]:
    """Start `command` and wait until `/readyz` says yes on `port`."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            [str(part) for part in command],
            cwd=cwd,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **ALONE, **environment},
            start_new_session=True,
        )
    server = Server(process, f"http://127.0.0.1:{port}", log)
    try:
        _wait_until_ready(server)
        yield server
    finally:
        if process.poll() is None:
            assert server.stop() == []


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until_ready(server: Server) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if server.process.poll() is not None:
            break
        try:
            if httpx.get(f"{server.url}/readyz").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise AssertionError(f"not ready:\n{server.log.read_text()}")
