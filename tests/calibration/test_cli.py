from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from models.bundle import MANIFEST, Bundle

OFFRAMP = Path(sys.executable).parent / "offramp"


def offramp(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [OFFRAMP, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **environment},
    )


def test_demo_refuses_an_existing_bundle_at_once(bundle: Bundle) -> None:
    before = (bundle.path / MANIFEST).read_bytes()
    result = offramp("demo", "--out", bundle.path)
    assert result.returncode == 2
    assert "--force" in result.stderr
    assert "Traceback" not in result.stderr
    assert (bundle.path / MANIFEST).read_bytes() == before


def test_demo_never_forces_away_what_is_not_a_bundle(tmp_path: Path) -> None:
    result = offramp("demo", "--out", tmp_path, "--force")
    assert result.returncode == 2
    assert "not a bundle" in result.stderr


@pytest.mark.parametrize("option", ["--epsilon", "--delta"])
def test_levels_are_checked_before_any_work(tmp_path: Path, option: str) -> None:
    result = offramp("demo", "--out", tmp_path / "new", option, "1.5")
    assert result.returncode == 2
    assert f"{option[2:]} is 1.5" in result.stderr
    assert not (tmp_path / "new").exists()


def test_push_of_no_bundle_is_refused(tmp_path: Path) -> None:
    result = offramp("push", tmp_path, BENTOML_HOME=str(tmp_path))
    assert result.returncode == 2
    assert MANIFEST in result.stderr


def test_a_negative_seed_is_refused(tmp_path: Path) -> None:
    result = offramp("demo", "--out", tmp_path / "new", "--seed", "-1")
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
