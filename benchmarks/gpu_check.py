"""Checks and measures the engine on a machine with a CUDA device, and writes docs/gpu.md.

    PYTHON=python3 make gpu-check

Needs numpy, onnx, onnxruntime-gpu and prometheus-client, and nothing that is built: no venv, no
bundle, neither BentoML nor torch. Where one of these is missing it says so, exits 1 and writes
nothing. Where the whole project is installed and bundles/digits is there, servers are compared too
(`benchmarks/serving.py`), with MLServer where .venv-mlserver is.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from datetime import date
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "gpu.md"
NEEDED = {
    "numpy": "numpy",
    "onnx": "onnx",
    "onnxruntime": "onnxruntime-gpu",
    "prometheus_client": "prometheus-client",
}
"""Module -> distribution."""
NEEDED_FOR_SERVERS = {"bentoml": "bentoml", "grpc": "grpcio", "tritonclient": "tritonclient"}
DIGITS, MLSERVER = ROOT / "bundles" / "digits", ROOT / ".venv-mlserver" / "bin" / "python"


def main() -> int:
    problem = missing_packages() or missing_device()
    if problem:
        return stop(problem)
    tests = [sys.executable, "-m", "unittest", "-v", "tests.cuda.test_cuda"]
    if run(tests):
        return stop("the device tests failed")
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "table.md"
        engine = str(ROOT / "benchmarks" / "engine.py")
        if run([sys.executable, engine, "--device", "cuda", "--out", str(table)]):
            return stop("the engine benchmark failed")
        left_out = missing_servers()
        if left_out:
            print(f"gpu-check: no servers are compared: {left_out}")
        elif run([sys.executable, *served(table)]):
            return stop("the comparison of servers failed")
        PAGE.write_text(page(machine(), versions(), table.read_text()), encoding="utf-8")
    print(f"gpu-check: wrote {PAGE.relative_to(ROOT)}")
    return 0


def missing_servers() -> str:
    """Why servers cannot be compared; nothing where they can."""
    missing = [name for module, name in NEEDED_FOR_SERVERS.items() if find_spec(module) is None]
    if missing:
        return f"{sys.executable} has no {', '.join(missing)}"
    return "" if DIGITS.is_dir() else f"{DIGITS.relative_to(ROOT)} is not there: make bundle"


def served(table: Path) -> list[str]:
    """The command that compares servers, its tables behind the engine's."""
    peer = ["--mlserver-python", str(MLSERVER)] if MLSERVER.exists() else []
    command = [str(ROOT / "benchmarks" / "serving.py"), "--device", "cuda", "--bundle", str(DIGITS)]
    return [*command, *peer, "--out", str(table)]


def missing_packages() -> str:
    missing = [package for module, package in NEEDED.items() if find_spec(module) is None]
    if not missing:
        return ""
    return (
        f"{sys.executable} has no {', '.join(missing)}; expected {', '.join(NEEDED.values())}: "
        f"{sys.executable} -m pip install {' '.join(missing)}, or name another Python with "
        "PYTHON=... make gpu-check"
    )


def missing_device() -> str:
    """Why there is no device to check; nothing where there is one."""
    from benchmarks.random_encoder import random_encoder
    from models.cuda_runtime import CudaRuntime
    from models.errors import SettingsError

    model, carries = random_encoder(layers=2, hidden=24, heads=2, inner=32, vocabulary=9)
    try:
        CudaRuntime(model, carries)
    except SettingsError as error:
        return f"no CUDA device to check: {error}"
    return ""


def stop(problem: str) -> int:
    print(f"gpu-check: {problem}", file=sys.stderr)
    print(f"gpu-check: {PAGE.relative_to(ROOT)} is left as it was", file=sys.stderr)
    return 1


def run(command: list[str]) -> int:
    """Run a command in the repository, its packages importable without an install."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode


def machine() -> str:
    """The device, its memory and driver, as nvidia-smi names them."""
    query = ["nvidia-smi", "-i", "0", "--query-gpu=name,memory.total,driver_version"]
    try:
        told = subprocess.run(
            [*query, "--format=csv,noheader"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return "a device that nvidia-smi does not name"
    name, memory, driver = told.stdout.strip().split(", ")
    return f"{name}, {memory}, driver {driver}"


def versions() -> str:
    import numpy
    import onnx
    import onnxruntime

    return (
        f"ONNX Runtime {onnxruntime.__version__} (CUDA {onnxruntime.cuda_version}), "
        f"onnx {onnx.__version__}, NumPy {numpy.__version__}, Python {sys.version.split()[0]}"
    )


def page(machine: str, versions: str, table: str) -> str:
    """The text of docs/gpu.md once it has run."""
    from models.machine import machine_name

    return f"""# On a GPU

Written by `make gpu-check` on {date.today()}; run it again to replace this page.

* Device: {machine}
* Host: {machine_name()}
* {versions}
* The device tests (`tests/cuda`) passed.

{table.strip()}
"""


if __name__ == "__main__":
    sys.exit(main())
