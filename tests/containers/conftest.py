"""Bentos, built as `make bento` does, in a store of their own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.small_bundles import small_bundle

SECRET = "a-key-of-whoever-builds"


@dataclass(frozen=True)
class BuiltBento:
    """A Bento in a BentoML home, and the tag of the model that it carries."""

    home: Path
    tag: str
    model: str

    @property
    def path(self) -> Path:
        return self.home / "bentos" / self.tag.replace(":", "/")

    @property
    def requirements(self) -> dict[str, str]:
        """What it installs: versions by name."""
        text = (self.path / "env" / "python" / "requirements.txt").read_text()
        return dict(re.findall(r"^([\w-]+)==(\S+)$", text, re.MULTILINE))

    @cached_property
    def containerfile(self) -> str:
        """What `bentoml containerize` builds."""
        code = f"import bentoml; bentoml.container.get_containerfile({self.tag!r})"
        return self.run("-c", code).stderr

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return run_python(self.home, *arguments)


def run_python(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """This interpreter in the checkout, with a BentoML home and a secret in its environment."""
    environment = {
        **os.environ,
        "BENTOML_HOME": str(home),
        "BENTOML_DO_NOT_TRACK": "True",
        "AWS_SECRET_ACCESS_KEY": SECRET,
    }
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True
    )


@pytest.fixture(scope="session")
def bento(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], BuiltBento]:
    """A Bento of a small bundle for a device."""

    @cache
    def built(device: str) -> BuiltBento:
        folder = tmp_path_factory.mktemp(device)
        bundle = small_bundle(folder / "bundle", "numbers")
        home, build = folder / "home", ("-m", "container.bento", str(bundle.path))
        result = run_python(home, *build, "--device", device)
        assert result.returncode == 0, result.stderr
        found = re.match(r"built (offramp:\w+) for \w+, [\d.]+ MB, with (\S+)", result.stdout)
        assert found, result.stdout
        return BuiltBento(home, found[1], found[2])

    return built
