"""The service with faults that tests switch on and off by files beside it."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np

from models.bundle import Bundle
from tests.conftest import ROOT
from tests.end_to_end.server import Server, free_port, running

BENTOML = Path(sys.executable).parent / "bentoml"
HELD, LOST = "held", "lost"
"""Files beside the faulty service: a stage behind the first waits, the device is lost."""

SERVICE = f'''
import time
from pathlib import Path

from models.runtime import StageRuntime
from service.app import Offramp

HERE, real_run = Path(__file__).parent, StageRuntime.run


def run(self, stage, carry):
    while stage > 1 and (HERE / "{HELD}").exists():
        time.sleep(0.01)
    if (HERE / "{LOST}").exists():
        raise RuntimeError("the device is lost")
    return real_run(self, stage, carry)


StageRuntime.run = run
'''


@contextmanager
def faulty_server(folder: Path, bundle: Bundle, **environment: str) -> Iterator[Server]:
    """Serve a bundle by one lane; nothing is compared in the shadow."""
    (folder / "faulty.py").write_text(SERVICE)
    port = free_port()
    command = [BENTOML, "serve", "faulty:Offramp", "--host", "127.0.0.1", "--port", port]
    settings = {
        "PYTHONPATH": str(ROOT),
        "OFFRAMP_BUNDLE": str(bundle.path),
        "OFFRAMP_LANES": "1",
        "OFFRAMP_SHADOW_SHARE": "0",
        **environment,
    }
    with running(command, port, folder, folder / "log", **settings) as server:
        yield server


def body(rows: np.ndarray, **fields: object) -> str:
    """Of `POST /predict`."""
    return json.dumps({"rows": rows.tolist(), **fields})


def wait_for_metric(server: Server, name: str, value: float, **labels: str) -> None:
    """Until a series of the model `digits` has the value."""
    named = {"model": "digits", **labels}
    series = ",".join(f'{label}="{text}"' for label, text in sorted(named.items()))
    line = f"offramp_{name}{{{series}}} {value}"
    until = time.monotonic() + 20
    while line not in (metrics := httpx.get(f"{server.url}/metrics").text).splitlines():
        assert time.monotonic() < until, metrics
