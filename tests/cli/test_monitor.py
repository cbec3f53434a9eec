from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from typer.testing import CliRunner

from cli.main import app
from models.bundle import Bundle
from models.errors import Forbidden, InvalidInput, NotFound, Unavailable
from tests.end_to_end.server import free_port
from tests.live_server import LiveServer, live_server


@pytest.fixture
def server(bundle: Bundle) -> Iterator[LiveServer]:
    with live_server(bundle, shadow_share=1.0, repository_calls=True) as server:
        yield server


@pytest.fixture
def fallen(server: LiveServer, rows: np.ndarray, lost: np.ndarray) -> LiveServer:
    """Rows that lose something were sent until it fell back."""
    sent = rows[lost][:40].tolist()
    for _ in range(50):
        httpx.post(f"http://{server.http}/predict", json={"rows": sent}).raise_for_status()
        if httpx.get(f"http://{server.http}/monitor").json()[0]["fell_back"]:
            return server
    raise AssertionError("it did not fall back")


def run(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, ["monitor", *arguments])
    assert result.exit_code == code, result.output
    return result.stdout


def failure(*arguments: str) -> BaseException:
    result = CliRunner().invoke(app, ["monitor", *arguments])
    assert result.exception is not None
    return result.exception


def test_a_server_that_keeps_its_promise_says_so(server: LiveServer) -> None:
    told = run("status", f"http://{server.http}")
    assert "serves the certified policy" in told
    assert "set-agreement: 0.0000 lost of late, at most 0.2500 promised" in told
    assert "evidence 1 of 100 after 0 rows" in told


def test_a_fallback_is_told_and_ended(fallen: LiveServer) -> None:
    url = f"http://{fallen.http}"
    told = run("status", url, code=1)
    assert "serves the full policy" in told
    assert "fell back to full depth at 20" in told
    (found,) = json.loads(run("status", url, "--json", code=1))
    assert found["fell_back"]["reason"] == "more is lost than was promised"
    assert "serves the certified policy" in run("reset", url)
    run("status", url)


def test_a_reset_names_its_model(server: LiveServer) -> None:
    url = f"http://{server.http}"
    document: dict[str, Any] = json.loads(run("reset", url, "--model", "digits", "--json"))
    assert document["policy"] == "certified"
    error = failure("reset", url, "--model", "other")
    assert isinstance(error, NotFound)
    assert "digits" in str(error)


def test_a_server_that_allows_no_reset_says_how_to_allow_it(bundle: Bundle) -> None:
    with live_server(bundle) as server:
        error = failure("reset", f"http://{server.http}")
    assert isinstance(error, Forbidden)
    assert "OFFRAMP_REPOSITORY_CALLS=true" in str(error)


def test_no_server_and_no_url_are_told() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    error = failure("status", url)
    assert isinstance(error, Unavailable)
    assert f"no offramp server at {url}" in str(error)
    error = failure("status", "grpc://localhost:3001")
    assert isinstance(error, InvalidInput)
    assert "expected http:// or https://" in str(error)
