"""Rows of another distribution: the monitor falls back, and what becomes of that."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import psutil
from checked_rows import JSON, CheckedRows, at_full_depth
from faults_alarms import label_sets, watched_limit
from faults_site import Finding, Plan, Skipped
from faults_state import STATE, answers, monitor_status
from reliability_server import ServiceProcess, running_service
from soak_oracle import Oracle, draw_pool

from models.bundle import Bundle
from models.set_losses import set_loss

SHADOW_SHARE = 0.2
REQUEST_ROWS = 32
CLEARLY = 1.5
"""How many times the limit rows have to lose to be of use."""
SEEN_SECONDS = 20.0
SEED = 5


@dataclass(frozen=True)
class Drift:
    """Rows, and how many times the limit their early answers lose."""

    name: str
    rows: np.ndarray
    ratio: float


def drift(bundle: Bundle, rows: CheckedRows, plan: Plan, folder: Path) -> Finding:
    """Clean rows, then drifted ones until the fallback, a kill, a restart, and a reset."""
    drifts = drifted(bundle, plan)
    harmful = sorted((d for d in drifts if d.ratio >= CLEARLY), key=lambda d: -d.ratio)
    harmless = [d for d in drifts if d.ratio <= 1][: plan.drifts]
    if not harmful:
        raise Skipped("needs rows over which early answers lose more than promised")
    settings = {
        "OFFRAMP_BUNDLE": str(bundle.path),
        "OFFRAMP_SHADOW_SHARE": str(SHADOW_SHARE),
        "OFFRAMP_MONITOR_STATE": str(folder / STATE),
        "OFFRAMP_REPOSITORY_CALLS": "true",
    }
    finding, full = Finding(), at_full_depth(bundle, rows)
    with running_service(folder, **settings) as server:
        for calm in harmless:
            _send(server, calm.rows, plan.drift_rows)
            finding.expect(_policy(server) == "certified", f"it falls back on {calm.name} rows")
            finding.figures.append(
                f"{plan.drift_rows} {calm.name} rows, which lose {calm.ratio:.1f} of the limit: no "
                "fallback"
            )
        for number, harm in enumerate(harmful[: plan.drifts]):
            if number:
                _reset(server, rows, finding)
            finding.add(_fall(server, harm, plan))
            finding.expect(answers(server, full), f"{harm.name}: answers are not at full depth")
        finding.add(_said(server))
        finding.expect(_saved(folder), "the fallback is not in the monitor's state")
        _kill(server)
    with running_service(folder, **settings) as server:
        finding.expect(_policy(server) == "full", "a restart forgets the fallback")
        finding.expect(answers(server, full), "after a restart answers are not at full depth")
        _reset(server, rows, finding)
    finding.figures.append("kept over a SIGKILL; after a reset the certified policy")
    return finding


def drifted(bundle: Bundle, plan: Plan) -> list[Drift]:
    """Clean rows first, which lose half of what they may at most, then others."""
    limit = watched_limit(bundle)
    raw, _ = draw_pool([bundle], plan.pool, SEED, calm=True)
    clean = np.asarray(raw)
    shapes = {
        "clean": clean,
        "inverted": 1 - clean,
        "shifted": np.roll(clean, 7, -1),
        "brighter": clean * 1.5,
        "over-exposed": clean * 10,
    }
    found = []
    for name, rows in shapes.items():
        early, full = label_sets(Oracle(bundle, np.ascontiguousarray(rows, np.float32)))
        lost = float(set_loss(limit.guarantee, early, full).mean())
        found.append(Drift(name, rows.round(3), lost / limit.mean_loss))
    return found


def _fall(server: ServiceProcess, harm: Drift, plan: Plan) -> Finding:
    """Send until it falls back."""
    finding, before = Finding(), server.metric("offramp_fallbacks_total")
    sent = 0
    while (policy := _policy(server)) == "certified" and sent < plan.most_drift_rows:
        sent += _send(server, harm.rows, REQUEST_ROWS, sent)
    status = monitor_status(server)
    finding.expect(policy == "full", f"{harm.name}: no fallback after {sent} rows, {status}")
    if status["fell_back"]:
        finding.figures.append(
            f"{harm.name} rows, which lose {harm.ratio:.1f} times the limit: fallback after {sent}"
        )
    fallbacks = server.metric("offramp_fallbacks_total") - before
    finding.expect(fallbacks == 1, f"{harm.name}: {fallbacks:.0f} fallbacks are counted")
    return finding


def _said(server: ServiceProcess) -> Finding:
    """Where an operator looks."""
    finding = Finding()
    ready = server.get("/readyz").status_code
    finding.expect(ready == httpx.codes.OK, f"readiness says {ready}")
    certified = server.metric("offramp_policy_certified")
    finding.expect(certified == 0, f"offramp_policy_certified is {certified}")
    finding.expect(server.events("fell_back"), "no line of the log says that it fell back")
    return finding


def _reset(server: ServiceProcess, rows: CheckedRows, finding: Finding) -> None:
    server.post("/monitor/reset").raise_for_status()
    finding.expect(_policy(server) == "certified", "a reset does not bring the policy back")
    finding.expect(answers(server, rows), "after a reset answers are not the certified ones")


def _policy(server: ServiceProcess) -> str:
    return str(monitor_status(server)["policy"])


def _send(server: ServiceProcess, rows: np.ndarray, count: int, begin: int = 0) -> int:
    """Rows of a pool, `count` of them from a place on; how many."""
    for start in range(begin, begin + count, REQUEST_ROWS):
        places = np.arange(start, min(start + REQUEST_ROWS, begin + count)) % len(rows)
        body = json.dumps({"rows": rows[places].tolist()})
        server.client.post(f"{server.url}/predict", content=body, headers=JSON).raise_for_status()
    return count


def _saved(folder: Path) -> bool:
    """Whether the state soon says that it fell back."""
    end = time.monotonic() + SEEN_SECONDS
    while time.monotonic() < end:
        for path in (folder / STATE).glob("[!.]*.json"):
            if json.loads(path.read_text())["fell_back"]:
                return True
        time.sleep(0.02)
    return False


def _kill(server: ServiceProcess) -> None:
    """The supervisor first, which might start another worker."""
    family: Sequence[psutil.Process] = [psutil.Process(server.process.pid), server.worker]
    for process in family:
        os.kill(process.pid, signal.SIGKILL)
    server.process.wait()
    psutil.wait_procs(family)
