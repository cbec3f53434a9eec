"""Exact versions of everything an image installs, one file per device: `cpu.lock`, `cuda.lock`.

    python -m container.locks    # asks the package index, for Python 3.11 on Linux x86_64

BentoML installs them as they are. What they say is the closure of pyproject's serving dependencies
with the versions of `requirements.lock`; what only images install, the newest that fit.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RUNTIME = "onnxruntime"
HEADER = "# written by `python -m container.locks`\n"


def serving_requirements(device: str) -> list[str]:
    """The serving dependencies of pyproject.toml with the ONNX Runtime of a device.

    Parameters
    ----------
    device : `cpu`, or `cuda`, whose runtime is pyproject's extra of that name
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    runtimes = [one for one in project["dependencies"] if one.startswith(RUNTIME)]
    others = [one for one in project["dependencies"] if one not in runtimes]
    if device == "cuda":
        return [*others, *project["optional-dependencies"]["cuda"]]
    return [
        *others,
        *(one.partition(";")[0] for one in runtimes if not one.startswith("onnxruntime-gpu")),
    ]


def constraints() -> list[str]:
    """`requirements.lock`, whose version of onnxruntime-gpu is the CPU runtime's as well."""
    pins = (ROOT / "requirements.lock").read_text().splitlines()
    gpu = next(pin for pin in pins if pin.startswith(f"{RUNTIME}-gpu=="))
    return [*pins, gpu.replace("-gpu", "")]


def resolve(requirements: Sequence[str], pins: Sequence[str]) -> list[str]:
    """`name==version` of all that pip would install into an empty environment, by name."""
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"]
    with tempfile.NamedTemporaryFile("w") as constraint:
        constraint.write("\n".join(pins))
        constraint.flush()
        options = ["--only-binary", ":all:", "--report", "-", "--constraint", constraint.name]
        result = subprocess.run([*pip, *options, *requirements], check=True, capture_output=True)
    found = [one["metadata"] for one in json.loads(result.stdout)["install"]]
    return sorted((f"{one['name']}=={one['version']}" for one in found), key=str.lower)


def main() -> None:
    """Write both files."""
    for device in ("cpu", "cuda"):
        pins = resolve(serving_requirements(device), constraints())
        path = ROOT / "container" / f"{device}.lock"
        path.write_text(HEADER + "\n".join(pins) + "\n")
        print(f"{path.relative_to(ROOT)}: {len(pins)} packages")


if __name__ == "__main__":
    main()
