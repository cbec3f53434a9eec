"""Engines that are there but do not work, and the words and status of a trial without one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from container.engine import Engine, NoEngineError, find_engine
from tests.conftest import ROOT

NO_DAEMON = "Cannot connect to the Docker daemon at unix:///var/run/docker.sock"


def command(folder: Path, name: str, script: str) -> Path:
    """A command that is a client without an engine."""
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def test_a_client_without_an_engine_is_not_taken_for_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command(tmp_path, "docker", f'echo "{NO_DAEMON}" >&2; exit 1')
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NoEngineError) as error:
        find_engine("python:3.11-slim", [Engine("docker"), Engine("podman")])
    assert f"docker: {NO_DAEMON}" in str(error.value)
    assert "podman: not installed" in str(error.value)


def test_an_engine_that_builds_but_does_not_run_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command(tmp_path, "docker", '[ "$1" = run ] && { echo "no runtime" >&2; exit 125; }; exit 0')
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NoEngineError, match="docker: no runtime"):
        find_engine("python:3.11-slim", [Engine("docker")])


def test_the_first_engine_that_works_is_taken_with_its_options(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = tmp_path / "calls"
    command(
        tmp_path,
        "podman",
        f'echo "$@" >> {calls}\ncase "$*" in build*chroot*|run*runc*|rmi*) exit 0;; esac\nexit 126',
    )
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin")
    plain = Engine("podman")
    fit = Engine("podman", ("isolation=chroot",), ("--runtime", "runc"))
    assert find_engine("base", [plain, fit]) == fit
    run = next(line for line in calls.read_text().splitlines() if "runc" in line)
    for restriction in ("--network none", "--read-only", "--cap-drop ALL", "no-new-privileges"):
        assert restriction in run


def test_a_trial_without_an_engine_is_skipped_and_says_so(tmp_path: Path) -> None:
    command(tmp_path, "docker", f'echo "{NO_DAEMON}" >&2; exit 1')
    result = subprocess.run(
        [sys.executable, "-m", "container.trial"],
        cwd=ROOT,
        env={**os.environ, "PATH": str(tmp_path), "BENTOML_HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 3
    assert result.stderr.startswith("SKIPPED, nothing was tested: ")
    assert NO_DAEMON in result.stderr
    assert "ok" not in result.stdout.split()
