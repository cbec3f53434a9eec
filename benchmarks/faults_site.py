"""Where a fault happens: a running server, bystanders, and what is found."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from bystanders import Bystanders, Phase, bystanders
from checked_rows import CheckedRows
from reliability_server import ServiceProcess

SETTLE_SECONDS = 60.0
"""For descriptors to be given back; nothing else waits so long."""


class Skipped(Exception):
    """A fault cannot be made on this machine; says what it needs."""


@dataclass(frozen=True)
class Plan:
    """How much of everything.

    seconds : of the quiet phase, and at least of every fault
    clients : slow ones of each kind
    hang_ups : of each kind
    idle : connections to each port
    rounds : of poisoned rows, and of each jump of the clock
    files : descriptors that the server may open
    starts : of altered bundles, at most
    streams, stream_rows : of the monitor's false alarms
    pool, drift_rows, most_drift_rows : rows of each kind that are made; sent where nothing is to
        happen; and sent at most until the monitor falls back
    drifts : kinds of rows that make it fall back, at most
    """

    seconds: float = 10.0
    clients: int = 20
    hang_ups: int = 200
    idle: int = 2000
    rounds: int = 20
    files: int = 4096
    starts: int = 100
    streams: int = 200
    stream_rows: int = 5000
    pool: int = 3000
    drift_rows: int = 4096
    most_drift_rows: int = 20_000
    drifts: int = 3


QUICK = Plan(
    seconds=2.0,
    clients=4,
    hang_ups=40,
    rounds=3,
    starts=2,
    streams=40,
    stream_rows=400,
    pool=300,
    drift_rows=512,
    drifts=1,
)


@dataclass
class Finding:
    """What a fault did.

    figures : for the page
    mishaps : what should not have happened; none when it is passed
    """

    figures: list[str] = field(default_factory=list)
    mishaps: list[str] = field(default_factory=list)

    def expect(self, holds: object, mishap: str) -> None:
        """Note a mishap where something does not hold."""
        if not holds:
            self.mishaps.append(mishap)

    def add(self, other: Finding) -> None:
        """Take another's along."""
        self.figures += other.figures
        self.mishaps += other.mishaps


@dataclass
class Site:
    """A server under a light load.

    rows : that its bundle is asked for
    folder : for whatever a fault writes
    """

    server: ServiceProcess
    others: Bystanders
    rows: CheckedRows
    plan: Plan
    folder: Path


@contextmanager
def site(server: ServiceProcess, rows: CheckedRows, plan: Plan, folder: Path) -> Iterator[Site]:
    """Bystanders at a ready server until the end of the block."""
    with bystanders(rows, server.http, server.grpc, folder) as others:
        yield Site(server, others, rows, plan, folder)


def quiet_phase(place: Site) -> Phase:
    """Bystanders alone."""
    with place.others.phase() as quiet:
        time.sleep(place.plan.seconds)
    return quiet


def unharmed(place: Site, fault: Callable[[Site], Finding]) -> Finding:
    """A fault that must do nothing to the bystanders, and not end the worker."""
    quiet, worker = quiet_phase(place), place.server.worker.pid
    finding = Finding()
    finding.expect(not quiet.mishaps, f"without a fault: {quiet.mishaps}")
    begun = time.monotonic()
    with place.others.phase() as loud:
        finding.add(fault(place))
        time.sleep(max(0.0, begun + place.plan.seconds - time.monotonic()))
    finding.add(beside(quiet, loud))
    finding.expect(psutil.pid_exists(worker), "the worker ended")
    finding.mishaps += [f"in the log: {error}" for error in tracebacks(place.server)]
    return finding


def tracebacks(server: ServiceProcess) -> list[str]:
    """The errors of the log's tracebacks."""
    blocks = server.log.read_text(errors="replace").split("Traceback (most recent call last):\n")
    return [
        next((line for line in block.splitlines() if not line.startswith(" ")), "")
        for block in blocks[1:]
    ]


def beside(quiet: Phase, loud: Phase) -> Finding:
    """What became of the bystanders."""
    harmed = sum(loud.outcomes.values()) - loud.outcomes["ok"]
    figure = (
        f"bystanders: {harmed} of {sum(loud.outcomes.values())} failed or wrong, p99 "
        f"{loud.p99:.0f} ms ({quiet.p99:.0f} ms before)"
    )
    finding = Finding([figure], loud.mishaps)
    finding.expect(loud.outcomes["ok"], "no bystander was answered")
    return finding


def descriptors(worker: psutil.Process, seconds: float = 1.0) -> int:
    """The fewest that a process has open within so many seconds."""
    end = time.monotonic() + seconds
    fewest = int(worker.num_fds())
    while time.monotonic() < end:
        time.sleep(0.02)
        fewest = min(fewest, int(worker.num_fds()))
    return fewest


def descriptors_settle(worker: psutil.Process, before: int) -> int:
    """How many are open once no more than before are, or at last."""
    end = time.monotonic() + SETTLE_SECONDS
    while (found := descriptors(worker)) > before and time.monotonic() < end:
        pass
    return found
