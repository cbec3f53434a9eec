"""The faults that one server has to survive, and that server."""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from checked_rows import CheckedRows
from faults_bundle import BUNDLE, copy_bundle, refused_reloads
from faults_clock import clock_jumps, faked_clock
from faults_rows import poisoned_rows
from faults_site import Finding, Plan, Site, Skipped, site
from faults_slow import slow_clients
from faults_sockets import hang_ups, idle_connections
from faults_state import STATE, full_disk, on_a_tiny_disk
from reliability_server import running_service

from models.bundle import Bundle

UNHARMED = "no bystander fails or gets a wrong answer"


@dataclass(frozen=True)
class Survived:
    """A fault that only those may notice who make it.

    make : makes it
    expected : beside unharmed bystanders
    prepare : what the server needs for it, as `start_service` takes it, given a folder
    """

    make: Callable[[Site], Finding]
    expected: str
    prepare: Callable[[Path], dict[str, Any]] = lambda folder: {}


def _disk(folder: Path) -> dict[str, Any]:
    return {"within": on_a_tiny_disk(folder), "OFFRAMP_MONITOR_STATE": str(folder / STATE)}


SURVIVED = {
    "poisoned-rows": Survived(poisoned_rows, "only these are refused"),
    "clock-jump": Survived(
        clock_jumps, "by an hour and by a day, to and fro: no deadline is missed", faked_clock
    ),
    "slow-clients": Survived(
        slow_clients, "slow heads, bodies and handshakes are ended by the server"
    ),
    "hang-ups": Survived(
        hang_ups, "half-closed and reset sockets: an answer or a clean end, no descriptor is lost"
    ),
    "idle-connections": Survived(idle_connections, "2,000 to each port: ended, none is lost"),
    "full-disk": Survived(
        full_disk, "the monitor's state cannot be written: counted, told once", _disk
    ),
    "altered-reload": Survived(
        refused_reloads, "refused with the file's name, the one before is served"
    ),
}


@contextmanager
def survivor(
    names: Sequence[str], bundle: Bundle, rows: CheckedRows, plan: Plan, folder: Path
) -> Iterator[tuple[Site, dict[str, str]]]:
    """A server for some of the faults, and why others of them cannot be made here."""
    chosen: dict[str, Any] = {
        "OFFRAMP_BUNDLE": str(copy_bundle(bundle, folder / BUNDLE)),
        "OFFRAMP_REPOSITORY_CALLS": "true",
    }
    skipped = {}
    for name in names:
        try:
            chosen |= SURVIVED[name].prepare(folder)
        except Skipped as error:
            skipped[name] = str(error)
    files = min(plan.files, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    with (
        running_service(folder, files=files, **chosen) as server,
        site(server, rows, plan, folder) as place,
    ):
        yield place, skipped
