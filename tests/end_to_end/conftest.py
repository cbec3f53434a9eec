"""The examples, each run once per session by the commands of its own README."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from tests.conftest import ROOT

BIN = ".venv/bin/"
SMALLER = {
    "onnx_file": "--rows 2000 --epochs 2",
    "huggingface": "--rows 2500 --epochs 4",
    "torch_factory": "--rows 2000 --epochs 4",
    "train": "--rows 2500",
}
"""Arguments of each example's make.py."""


@dataclass(frozen=True)
class Run:
    """A command of a README after it ran; paths in it are relative to `folder`."""

    folder: Path
    arguments: list[str]
    result: subprocess.CompletedProcess[str]

    @property
    def bundle(self) -> Path:
        """What `--out` names."""
        return self.folder / self.arguments[self.arguments.index("--out") + 1]


def readme_commands(example: str) -> list[list[str]]:
    """What the README of an example says to run of the virtual environment."""
    text = (ROOT / "examples" / example / "README.md").read_text().replace("\\\n", " ")
    commands = [line.strip() for line in text.splitlines() if line.startswith(f"    {BIN}")]
    return [shlex.split(command) for command in commands]


def run_example(example: str, folder: Path) -> list[Run]:
    """Run them one after another, in a folder where the README's paths lead where they should."""
    (folder / "examples").symlink_to(ROOT / "examples")
    (folder / ".venv").symlink_to(Path(sys.executable).parent.parent)
    # one thread: small products that wait for a busy second core take ten times as long
    environment = {**os.environ, "XDG_CACHE_HOME": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    runs = []
    for arguments in readme_commands(example):
        made = arguments[1].endswith("/make.py")
        command = arguments + (shlex.split(SMALLER[example]) if made else [])
        result = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True
        )
        assert result.returncode == 0, result.stderr
        if not made:
            runs.append(Run(folder, command, result))
    return runs


@pytest.fixture(scope="session")
def example_runs(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], list[Run]]:
    """The runs of `offramp` of an example by its name."""

    @cache
    def runs(example: str) -> list[Run]:
        return run_example(example, tmp_path_factory.mktemp(example))

    return runs
