from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest

from models.bundle import MODEL, Bundle, read_bundle, write_bundle
from models.runtime import StageRuntime
from tests.conftest import ROOT
from tests.end_to_end.server import Server, free_port, running

pytestmark = pytest.mark.slow

BENTOML = Path(sys.executable).parent / "bentoml"
REQUEST = ROOT / "examples" / "digits" / "request.json"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, bundle: Bundle) -> Iterator[Server]:
    port = free_port()
    venv = Path(sys.executable).parent.parent
    command = ["make", "serve", f"BUNDLE={bundle.path}", f"PORT={port}", f"VENV={venv}"]
    with running(command, port, ROOT, tmp_path_factory.mktemp("serve") / "log") as server:
        yield server


def expected_exits(bundle: Bundle, runtime: StageRuntime) -> list[int]:
    rows = np.array(json.loads(REQUEST.read_text())["rows"], np.float32)
    scores = [answers.score for answers in runtime.all_exits((rows,))]
    return bundle.manifest.policy.route(scores).tolist()


def test_the_readmes_request_is_answered(
    server: Server, bundle: Bundle, runtime: StageRuntime
) -> None:
    response = httpx.post(
        f"{server.url}/predict",
        content=REQUEST.read_bytes(),
        headers={"content-type": "application/json"},
    )
    assert response.status_code == 200
    rows = response.json()["rows"]
    assert [row["exit"] for row in rows] == expected_exits(bundle, runtime)
    assert all(row["certified"] for row in rows)


def test_probes_and_metrics_answer(server: Server) -> None:
    for path in ("/livez", "/readyz"):
        assert httpx.get(server.url + path).status_code == 200
    before = httpx.get(f"{server.url}/metrics").text
    assert "offramp_queue_rows" in before
    httpx.post(f"{server.url}/predict", content=REQUEST.read_bytes())
    after = httpx.get(f"{server.url}/metrics").text
    assert 'offramp_requests_total{model="digits",outcome="ok"}' in after
    assert before != after


def test_unknown_paths_make_no_new_metrics(server: Server) -> None:
    httpx.get(f"{server.url}/some/random/path")
    assert "random" not in httpx.get(f"{server.url}/metrics").text


def test_a_body_that_never_ends_is_cut_off(server: Server) -> None:
    def endless() -> Iterator[bytes]:
        while True:
            yield b" " * 2**20

    try:
        status = httpx.post(f"{server.url}/predict", content=endless(), timeout=30).status_code
    except (httpx.WriteError, httpx.ReadError):
        status = 413  # the server closed while the client was still sending
    assert status == 413
    assert httpx.post(f"{server.url}/predict", content=REQUEST.read_bytes()).status_code == 200


def test_sigterm_leaves_no_process_behind(tmp_path: Path, bundle: Bundle) -> None:
    port = free_port()
    venv = Path(sys.executable).parent.parent
    command = ["make", "serve", f"BUNDLE={bundle.path}", f"PORT={port}", f"VENV={venv}"]
    with running(command, port, ROOT, tmp_path / "log") as server:
        assert server.stop() == []
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{server.url}/livez")


def altered(bundle: Path) -> str:
    with (bundle / MODEL).open("r+b") as file:
        file.seek(1000)
        file.write(b"x")
    return f"{MODEL} was altered"


def truncated(bundle: Path) -> str:
    os.truncate(bundle / MODEL, 1000)
    return f"{MODEL} was altered or truncated"


def missing(bundle: Path) -> str:
    shutil.rmtree(bundle)
    return "names no bundle"


def unfit(bundle: Path) -> str:
    read = read_bundle(bundle)
    first, *others = read.manifest.exits
    exits = (first.model_copy(update={"carry": ("exit1_logits",)}), *others)
    manifest = read.manifest.model_copy(update={"exits": exits})
    write_bundle(bundle, manifest, {MODEL: read.model}, force=True)
    return "does not fit its manifest"


@pytest.mark.parametrize("damage", [altered, truncated, missing, unfit])
def test_a_bad_bundle_does_not_start(tmp_path: Path, bundle: Bundle, damage) -> None:
    copy = Path(shutil.copytree(bundle.path, tmp_path / "copy"))
    words = damage(copy)
    result = subprocess.run(
        [
            BENTOML,
            "serve",
            "service.app:Offramp",
            "--host",
            "127.0.0.1",
            "--port",
            str(free_port()),
        ],
        cwd=ROOT,
        env={**os.environ, "OFFRAMP_BUNDLE": str(copy), "BENTOML_DO_NOT_TRACK": "True"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    output = result.stdout + result.stderr
    assert result.returncode != 0
    assert words in output
    assert str(copy) in output
    assert "Traceback" not in output


def test_a_mistyped_bundle_is_refused_and_not_built(tmp_path: Path) -> None:
    venv = Path(sys.executable).parent.parent
    result = subprocess.run(
        ["make", "serve", f"BUNDLE={tmp_path}/typo", f"PORT={free_port()}", f"VENV={venv}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode != 0
    assert "names no bundle" in result.stdout + result.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_bento_holds_its_bundle_and_answers(
    tmp_path: Path, bundle: Bundle, runtime: StageRuntime
) -> None:
    checkout = tmp_path / "checkout"
    files = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.split()
    for name in files:
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, checkout / name)
    shutil.copytree(bundle.path, checkout / "bundles" / "digits")
    home = {"BENTOML_HOME": str(tmp_path / "bentoml"), "BENTOML_DO_NOT_TRACK": "True"}
    built = subprocess.run(
        [BENTOML, "build", "--output", "tag"],
        cwd=checkout,
        env={**os.environ, **home},
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stderr
    tag = built.stdout.strip().removeprefix("__tag__:")
    shutil.rmtree(checkout)
    port = free_port()
    command = [BENTOML, "serve", tag, "--host", "127.0.0.1", "--port", port]
    with running(command, port, tmp_path, tmp_path / "log", **home) as server:
        response = httpx.post(f"{server.url}/predict", content=REQUEST.read_bytes())
        rows = response.json()["rows"]
        assert [row["exit"] for row in rows] == expected_exits(bundle, runtime)
        assert f"version={bundle.manifest.version}" in server.log.read_text()
        assert server.stop() == []
