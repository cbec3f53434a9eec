from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from models.bundle import Bundle
from models.errors import BundleError
from service.store import load_bundle
from tests.conftest import ROOT


def test_a_directory_is_read(bundle: Bundle) -> None:
    assert load_bundle(str(bundle.path)) == bundle


def test_what_is_neither_directory_nor_tag_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path))
    with pytest.raises(BundleError, match="'no:where' is neither a directory nor a tag"):
        load_bundle("no:where")


def test_a_pushed_bundle_is_found_by_its_tag(tmp_path: Path, bundle: Bundle) -> None:
    environment = {**os.environ, "BENTOML_HOME": str(tmp_path), "BENTOML_DO_NOT_TRACK": "True"}

    def run(*command: object) -> str:
        return subprocess.run(
            [*map(str, command)],
            capture_output=True,
            text=True,
            env=environment,
            cwd=ROOT,
            check=True,
        ).stdout.strip()

    tag = run(Path(sys.executable).parent / "offramp", "push", bundle.path).splitlines()[-1]
    assert tag.startswith("offramp-digits:")
    code = f"from service.store import load_bundle; print(load_bundle({tag!r}).manifest.digest)"
    assert run(sys.executable, "-c", code) == bundle.manifest.digest
