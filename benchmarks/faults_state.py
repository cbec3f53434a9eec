"""The monitor's state: a disk that is full while it serves, and a file that is damaged."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
from checked_rows import JSON, CheckedRows, at_full_depth
from faults_site import Finding, Plan, Site, Skipped
from reliability_server import ServiceProcess, running_service

from models.bundle import Bundle

STATE = "state"
"""In a fault's folder: the monitor's directory."""
DISK_KIB, FILLER = 64, "filler"
SEEN_SECONDS = 30.0
UNWRITTEN, ERRORS = "monitor_state_not_written", "offramp_monitor_state_errors_total"
RESETS = 3
"""Each writes the state."""
DAMAGED = b'{"schema": 1, "model": "dig'


def on_a_tiny_disk(folder: Path) -> list[str]:
    """What comes before a server's command, so that its monitor writes to a file system of its own.

    It is seen by that server alone, and goes away with it.

    Raises
    ------
    Skipped
        When nothing can be mounted here.
    """
    (folder / STATE).mkdir()
    unshare = ["unshare", "--mount", "--map-root-user"]
    mount = f'mount -t tmpfs -o size={DISK_KIB}k tmpfs "{folder / STATE}"'
    script = [*unshare, "sh", "-c", f'{mount} && exec "$@"', "sh"]
    if not shutil.which("unshare") or subprocess.run([*script, "true"], check=False).returncode:
        raise Skipped("needs a system where `unshare --mount` may mount a tmpfs")
    return script


def full_disk(place: Site) -> Finding:
    """The disk of the monitor's state is full for a while."""
    finding, server = Finding(), place.server
    disk = Path(f"/proc/{server.process.pid}/root{place.folder / STATE}")
    before, told = server.metric(ERRORS), len(server.events(UNWRITTEN))
    finding.expect(_is_written(place, disk), "with room, no state is written")
    _fill(disk)
    for number in range(1, RESETS + 1):
        _reset(server)
        goal = before + number
        counted = _in_time(lambda goal=goal: server.metric(ERRORS) >= goal)
        finding.expect(counted, f"{server.metric(ERRORS) - before:.0f} errors after {number}")
    lines = len(server.events(UNWRITTEN)) - told
    finding.expect(lines == 1, f"{lines} lines of the log say so, expected 1")
    (disk / FILLER).unlink()
    finding.expect(_is_written(place, disk), "with room again, no state is written")
    errors = server.metric(ERRORS) - before
    finding.expect(errors == RESETS, f"{errors:.0f} errors are counted, expected {RESETS}")
    finding.figures.append(f"{errors:.0f} errors counted, {lines} line of the log")
    return finding


def damaged_state(bundle: Bundle, rows: CheckedRows, plan: Plan, folder: Path) -> Finding:
    """A server whose monitor finds half a file from before."""
    finding, full = Finding(), at_full_depth(bundle, rows)
    (folder / STATE).mkdir()
    (folder / STATE / f"{bundle.manifest.version}.json").write_bytes(DAMAGED)
    settings = {
        "OFFRAMP_BUNDLE": str(bundle.path),
        "OFFRAMP_MONITOR_STATE": str(folder / STATE),
        "OFFRAMP_REPOSITORY_CALLS": "true",
    }
    with running_service(folder, **settings) as server:
        status = monitor_status(server)
        reason = (status["fell_back"] or {}).get("reason", "")
        finding.expect(status["policy"] == "full", f"it serves {status['policy']}")
        finding.expect("cannot be read" in reason, f"the reason of the fallback is {reason!r}")
        finding.expect(server.events("fell_back"), "no line of the log says so")
        finding.expect(answers(server, full), "answers are not those of full depth")
        finding.expect(server.metric("offramp_policy_certified") == 0, "the metric says certified")
        _reset(server)
        finding.expect(answers(server, rows), "after a reset, answers are not the certified ones")
    finding.figures.append("full depth is served, with the reason; after a reset the policy")
    return finding


def monitor_status(server: ServiceProcess) -> dict[str, Any]:
    """What `/monitor` says of the one model."""
    status: dict[str, Any] = server.get("/monitor").raise_for_status().json()[0]
    return status


def answers(server: ServiceProcess, rows: CheckedRows, count: int = 32) -> bool:
    """Whether the server answers rows as they say."""
    places = list(range(min(count, len(rows))))
    body = rows.predict_body(places)
    response = httpx.post(f"{server.url}/predict", content=body, headers=JSON)
    return response.status_code == httpx.codes.OK and rows.is_prediction(places, response.json())


def _reset(server: ServiceProcess) -> None:
    server.post("/monitor/reset").raise_for_status()


def _fill(disk: Path) -> None:
    with (disk / FILLER).open("wb", buffering=0) as filler, suppress(OSError):
        while True:
            filler.write(bytes(4096))


def _is_written(place: Site, disk: Path) -> bool:
    """Whether a reset is soon in a file."""
    known = _written(disk)
    _reset(place.server)
    return _in_time(lambda: _written(disk) != known)


def _written(disk: Path) -> dict[Path, int]:
    """When each state was, but for those that are being written."""
    return {path: path.stat().st_mtime_ns for path in disk.glob("[!.]*.json")}


def _in_time(holds: Callable[[], bool]) -> bool:
    """Whether something soon holds."""
    end = time.monotonic() + SEEN_SECONDS
    while time.monotonic() < end:
        if holds():
            return True
        time.sleep(0.02)
    return False
