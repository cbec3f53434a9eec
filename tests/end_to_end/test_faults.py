"""Lanes that die and clients that leave, on a real server with real sockets."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest

from models.bundle import Bundle
from service.ending import LANE_DIED
from tests.end_to_end.faulty import HELD, LOST, body, faulty_server, wait_for_metric
from tests.end_to_end.server import Server

pytestmark = pytest.mark.slow


@pytest.fixture
def server(tmp_path: Path, bundle: Bundle) -> Iterator[Server]:
    with faulty_server(tmp_path, bundle) as server:
        yield server


def test_a_lane_that_dies_ends_the_server_with_a_status_of_its_own(
    server: Server, tmp_path: Path, rows: np.ndarray
) -> None:
    supervisor = psutil.Process(server.process.pid)
    family = [supervisor, *supervisor.children(recursive=True)]
    assert len(family) > 1
    url = f"{server.url}/predict"
    assert httpx.post(url, content=body(rows[:2])).status_code == 200
    (tmp_path / LOST).touch()
    failed = httpx.post(url, content=body(rows[:2]))
    ready = httpx.get(f"{server.url}/readyz")
    later = httpx.post(url, content=body(rows[:2]))
    for response in (failed, ready, later):
        assert response.status_code == 503, response.text
        assert "the device is lost" in response.text
    assert server.process.wait(timeout=5) == LANE_DIED
    assert psutil.wait_procs(family, timeout=5)[1] == []
    log = server.log.read_text()
    assert "event=gives_up reason=" in log
    assert "Traceback" not in log


def test_a_server_that_is_told_to_stop_does_not_look_like_a_dead_lane(server: Server) -> None:
    assert server.stop() == []
    assert server.process.returncode == os.EX_OK


def test_a_client_that_hangs_up_takes_its_rows_along(
    server: Server, tmp_path: Path, rows: np.ndarray
) -> None:
    (tmp_path / HELD).touch()
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{server.url}/predict", content=body(rows[:4], policy="full"), timeout=1)
    wait_for_metric(server, "requests_total", 1.0, outcome="cancelled")
    wait_for_metric(server, "rows_total", 4.0, outcome="cancelled")
    (tmp_path / HELD).unlink()
    assert httpx.post(f"{server.url}/predict", content=body(rows[:4])).status_code == 200


def test_rows_are_streamed_while_others_still_run(
    server: Server, tmp_path: Path, rows: np.ndarray
) -> None:
    (tmp_path / HELD).touch()
    content = body(rows[:16], stream=True)
    with httpx.stream("POST", f"{server.url}/predict", content=content) as response:
        lines = response.iter_lines()
        first = json.loads(next(lines))
        assert first["exit"] == 1
        (tmp_path / HELD).unlink()
        places = [json.loads(line)["row"] for line in lines]
    assert sorted([first["row"], *places]) == list(range(16))


def test_a_client_that_hangs_up_on_a_stream_takes_the_other_rows_along(
    server: Server, tmp_path: Path, rows: np.ndarray
) -> None:
    (tmp_path / HELD).touch()
    content = body(rows[:16], stream=True)
    with httpx.stream("POST", f"{server.url}/predict", content=content) as response:
        next(response.iter_lines())
    wait_for_metric(server, "requests_total", 1.0, outcome="cancelled")
    (tmp_path / HELD).unlink()
    assert httpx.post(f"{server.url}/predict", content=body(rows[:4])).status_code == 200
