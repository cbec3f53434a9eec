"""Who may know whom: see DESIGN, "Folders"."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

FORBIDDEN = {
    "models": {"calibration", "service", "bentoml", "starlette"},
    "calibration": {"service"},
    "service": {"calibration", "torch", "matplotlib", "sklearn", "rich", "typer"},
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


def test_serving_loads_no_torch() -> None:
    code = (
        "import sys, service.app; from service.store import load_bundle\n"
        "heavy = {'torch', 'matplotlib', 'sklearn', 'scipy', 'ot', 'onnx', 'onnxruntime'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert result.stdout.strip() == "[]"
