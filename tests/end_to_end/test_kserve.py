"""KServe's own clients, in an environment of their own, against the running server."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from models.bundle import Bundle
from service.output_tensors import output_tensors
from tests.conftest import ROOT
from tests.end_to_end.server import free_port, running
from tests.service.conftest import serving

VARIABLE = "KSERVE_PYTHON"
CHECK = ROOT / "tests" / "kserve" / "check_kserve.py"
BENTOML = Path(sys.executable).parent / "bentoml"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        VARIABLE not in os.environ,
        reason=f"no interpreter with kserve, whose protobuf files clash with tritonclient's: "
        f"python3 -m venv DIR; DIR/bin/pip install kserve==0.21; {VARIABLE}=DIR/bin/python",
    ),
]


async def answers(bundle: Bundle, rows: np.ndarray) -> dict[str, np.ndarray]:
    """Without any door."""
    async with serving(bundle) as plane:
        prediction = await plane.predict(rows)
    return {tensor.name: tensor.array for tensor in output_tensors(prediction)}


def test_kserves_clients_get_the_dataplanes_answers(
    bundle: Bundle, rows: np.ndarray, tmp_path: Path
) -> None:
    sent = np.ascontiguousarray(rows[:16], np.float32)
    arrays = asyncio.run(answers(bundle, sent))
    np.savez(tmp_path / "expected.npz", rows=sent, **arrays)
    http, grpc = free_port(), free_port()
    command = [BENTOML, "serve", "service.app:Offramp", "--port", http]
    settings = {"OFFRAMP_BUNDLE": str(bundle.path), "OFFRAMP_GRPC_PORT": str(grpc)}
    with running(command, http, ROOT, tmp_path / "log", **settings):
        check = subprocess.run(
            [
                os.environ[VARIABLE],
                CHECK,
                f"http://127.0.0.1:{http}",
                f"127.0.0.1:{grpc}",
                bundle.manifest.name,
                bundle.manifest.inputs[0].name,
                tmp_path / "expected.npz",
            ],
            capture_output=True,
            text=True,
            timeout=120,
        )
    assert check.returncode == 0, check.stderr[-3000:]
