"""A real Prometheus, Debian's, started with the project's own configuration."""

from __future__ import annotations

import math
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import ROOT
from tests.end_to_end.server import free_port

CONFIG = ROOT / "deploy" / "prometheus" / "prometheus.yml"
RULES = ROOT / "deploy" / "prometheus" / "rules.yml"
KEY_FILE = "metrics.key"
"""As the configuration calls it."""
SECONDS = 20
"""In which it is up, and in which it has done what it does twice a second."""


@dataclass(frozen=True)
class Prometheus:
    """A running one.

    begun : when it was started, in seconds
    """

    url: str
    begun: float

    def get(self, path: str, **parameters: object) -> Any:
        """What a call of its API gives."""
        response = httpx.get(f"{self.url}/api/v1/{path}", params=parameters)
        answer = response.json()
        assert answer["status"] == "success", answer
        return answer["data"]

    def values(self, query: str) -> list[float]:
        """The finite values of all series of a query, over the time since it was started."""
        span = {"start": self.begun, "end": time.time(), "step": 1}
        series = self.get("query_range", query=query, **span)["result"]
        values = [float(value) for one in series for _, value in one["values"]]
        return [value for value in values if math.isfinite(value)]

    def wait_for_scrape(self) -> None:
        """Until a scrape is stored that began after now."""
        now, until = time.time(), time.monotonic() + SECONDS
        while not self.get("query", query=f"timestamp(up == 1) > {now}")["result"]:
            assert time.monotonic() < until, self.get("targets")["activeTargets"]
            time.sleep(0.05)

    def rules(self) -> list[dict[str, Any]]:
        """All rules, with their state."""
        return [rule for group in self.get("rules")["groups"] for rule in group["rules"]]


def program(name: str) -> str:
    """Without Debian's package the test is skipped, or fails where CI is set."""
    found = shutil.which(name)
    if found is None:
        missing = f"no {name}: install Debian's package prometheus"
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    return found


@contextmanager
def prometheus(folder: Path, target: str, key: str) -> Iterator[Prometheus]:
    """Scrape `target` (host and port) with `key` twice a second, until the block ends."""
    port, binary = free_port(), program("prometheus")
    shutil.copy(RULES, folder)
    (folder / KEY_FILE).write_text(key)
    (folder / CONFIG.name).write_text(_with_key(CONFIG.read_text(), target))
    command = [
        binary,
        f"--config.file={folder / CONFIG.name}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--log.level=warn",
    ]
    running = Prometheus(f"http://127.0.0.1:{port}", time.time())
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        _wait_until_ready(running, process, folder / "prometheus.log")
        yield running
    finally:
        process.terminate()
        process.wait(timeout=SECONDS)


def _with_key(config: str, target: str) -> str:
    """The example, hurried, with what it says about keys in force."""
    config = config.replace("127.0.0.1:3000", target).replace("15s", "500ms")
    config = re.sub(r"# (authorization|  type|  credentials_file)\b", r"\1", config)
    assert config.count("authorization") == 1
    return config


def _wait_until_ready(running: Prometheus, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + SECONDS
    while time.monotonic() < until and process.poll() is None:
        try:
            if httpx.get(f"{running.url}/-/ready").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.05)
    raise AssertionError(log.read_text())
