"""Who may know whom: see DESIGN, "Folders"."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from models.bundle import Bundle
from tests.conftest import ROOT

FORBIDDEN = {
    "models": {"calibration", "service", "cli", "bentoml", "starlette"},
    "calibration": {"service", "cli"},
    "service": {"calibration", "cli", "torch", "matplotlib", "sklearn", "rich", "typer"},
}


def imports(path: Path) -> set[str]:
    """Top-level packages a module imports anywhere, in functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add((node.module or "").split(".")[0])
    return found


@pytest.mark.parametrize("folder", FORBIDDEN)
def test_walls_hold(folder: str) -> None:
    modules = sorted((ROOT / folder).glob("**/*.py"))
    assert len(modules) > 5
    broken = {path.name: imports(path) & FORBIDDEN[folder] for path in modules}
    assert not {name: names for name, names in broken.items() if names}


def test_serving_a_request_loads_nothing_of_calibration(bundle: Bundle) -> None:
    code = f"""
import asyncio, sys
import numpy as np
import service.app
from service.dataplane import Dataplane
from service.metrics import Metrics
from service.settings import Settings
from service.store import load_bundle

async def serve_a_row():
    bundle = load_bundle({str(bundle.path)!r})
    plane = Dataplane(bundle, Settings(), Metrics())
    await plane.warm_up()
    rows = np.zeros((1, *bundle.manifest.inputs[0].row_shape), np.float32)
    assert len((await plane.predict(rows)).routed.exits) == 1
    plane.close()

asyncio.run(serve_a_row())
heavy = {{"calibration", "torch", "matplotlib", "sklearn", "scipy", "ot", "pandas"}}
print(sorted(heavy & set(sys.modules)))
"""
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert result.stdout.strip() == "[]"
