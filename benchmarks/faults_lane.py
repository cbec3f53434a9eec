"""A lane that dies under load: its rows fail, the server says no, and ends with its own status."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

import httpx
from checked_rows import CheckedRows
from faults_site import Finding, Plan, quiet_phase, site
from reliability_server import ROOT, running_service

from models.bundle import Bundle
from service.ending import LANE_DIED

ENDS_SECONDS = 10.0
LOST = "lost"
REASON = "the device is lost"
HARMLESS = {"ok", "503", "UNAVAILABLE", "closed"}
"""What may become of a bystander: an answer, a refusal that says why, or nobody there any more."""

FAULTY_SERVICE = f'''
from pathlib import Path

from models.runtime import StageRuntime
from service.app import Offramp

real_run, lost = StageRuntime.run, Path(__file__).parent / "{LOST}"


def run(self, stage, carry):
    if lost.exists():
        raise RuntimeError("{REASON}")
    return real_run(self, stage, carry)


StageRuntime.run = run
'''


def lane_death(bundle: Bundle, rows: CheckedRows, plan: Plan, folder: Path) -> Finding:
    """The service as it is, on a runtime that fails from some moment on."""
    (folder / "faulty.py").write_text(FAULTY_SERVICE)
    settings = {"PYTHONPATH": str(ROOT), "OFFRAMP_BUNDLE": str(bundle.path)}
    finding = Finding()
    with (
        running_service(folder, app="faulty:Offramp", cwd=folder, **settings) as server,
        site(server, rows, plan, folder) as place,
    ):
        quiet = quiet_phase(place)
        finding.expect(not quiet.mishaps, f"without a fault: {quiet.mishaps}")
        with place.others.phase() as loud:
            begun = time.monotonic()
            (folder / LOST).touch()
            unready = _unready(server.url)
            status = server.ends(ENDS_SECONDS)
            ended = time.monotonic() - begun
            time.sleep(plan.seconds)  # for bystanders to find nobody
        finding.expect(REASON in unready, f"readiness says {unready!r}, expected why not")
        finding.expect(status == LANE_DIED, f"exit status {status}, expected {LANE_DIED}")
        finding.add(_bystanders(loud.outcomes, loud.mishaps))
    finding.figures.append(f"ended with status {status} after {ended:.1f} s")
    return finding


def _unready(url: str) -> str:
    """Ask until readiness says no or nobody answers; what it says."""
    end = time.monotonic() + ENDS_SECONDS
    while time.monotonic() < end:
        try:
            response = httpx.get(f"{url}/readyz")
        except httpx.TransportError as error:
            return repr(error)
        if response.status_code == httpx.codes.SERVICE_UNAVAILABLE:
            return response.text
        time.sleep(0.02)
    return "yes"


def _bystanders(outcomes: Counter[str], mishaps: list[str]) -> Finding:
    finding = Finding()
    finding.expect(set(outcomes) <= HARMLESS, f"bystanders: {dict(outcomes)}")
    for status in ("503", "UNAVAILABLE"):
        finding.expect(outcomes[status], f"no bystander got {status}")
    for door in ("HTTP", "gRPC"):
        told = [mishap for mishap in mishaps if door in mishap and REASON in mishap]
        finding.expect(told, f"nobody is told why over {door}: {mishaps}")
    counts = ", ".join(f"{outcomes[kind]} {kind}" for kind in sorted(outcomes))
    finding.figures.append(f"bystanders: {counts}")
    return finding
