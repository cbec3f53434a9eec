"""A server that is ended under load: told to stop, again and again, or its worker killed."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from reliability_server import ServiceProcess
from soak_client import Outcome
from soak_load import Load, Tally, told
from soak_site import Finding, Plan, Site, capacity

SHARE = 0.5
"""Of the capacity."""
EXIT_SECONDS = 35.0
"""The service's grace time, and some seconds for the processes to end."""
READY_SECONDS = 10.0
LONG_SECONDS = 600.0
"""Of a load that is stopped before."""
AFTER_SECONDS = 0.3
LOWEST_PORT, HIGHEST_PORT = 20_000, 32_000
"""Below those that the system gives to clients, which could take a port between two servers."""


async def terms(site: Site, plan: Plan) -> Finding:
    """SIGTERM, so many times: what was accepted is answered."""
    tally, rate = Tally(), 0.0
    statuses: list[int | None] = []
    seconds: list[float] = []
    async with told("SIGTERM", tally, lambda: f", {len(statuses)} servers"):
        for number in range(plan.terms):
            async with (
                site.server() as server,
                site.load(server.http, server.grpc, seed=number) as load,
            ):
                rate = rate or SHARE * await capacity(load, plan.capacity)
                ended = await _end(server, load, rate, plan.around, tally)
            statuses.append(ended[0])
            seconds.append(ended[1])
    return _ended(tally, statuses, seconds)


async def _end(
    server: ServiceProcess, load: Load, rate: float, around: float, tally: Tally
) -> tuple[int | None, float]:
    """The exit status, and the seconds until then."""
    over = asyncio.Event()
    loading = asyncio.create_task(load.open(rate, LONG_SECONDS, tally, stop=over))
    try:
        await asyncio.sleep(around)
        begun = time.perf_counter()
        server.process.send_signal(signal.SIGTERM)
        status = await asyncio.to_thread(server.ends, EXIT_SECONDS)
        seconds = time.perf_counter() - begun
        await asyncio.sleep(AFTER_SECONDS)
    finally:
        over.set()
        await loading
    return status, seconds


def _ended(tally: Tally, statuses: list[int | None], seconds: list[float]) -> Finding:
    found = ", ".join(f"{tally.of(outcome):,} {outcome}" for outcome in Outcome)
    bad = tally.of(Outcome.WRONG, Outcome.LOST, Outcome.FAILED)
    return Finding(
        "SIGTERM under load",
        f"{len(statuses)} times, at {SHARE:.0%} of capacity: every request is answered, refused in "
        f"words, or not taken; exit status 0 within {EXIT_SECONDS:.0f} s",
        f"{tally.total:,} requests: {found}; exit statuses {_words(statuses)}, "
        f"after {max(seconds):.1f} s at most",
        not bad and tally.of(Outcome.ANSWERED) > 0 and set(statuses) == {0},
        max(seconds) <= EXIT_SECONDS,
        tally,
    )


@dataclass
class Restarts:
    """What a platform sees: the exit statuses, and the seconds from each kill until all is well."""

    statuses: list[int | None] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)


async def kills(site: Site, plan: Plan) -> Finding:
    """SIGKILL of the worker: the server ends, and the platform starts it again.

    Clients send again what was not answered.
    """
    tally, restarts, ports = Tally(), Restarts(), quiet_ports(2)
    over = asyncio.Event()
    async with site.load(*ports) as load, told("SIGKILL", tally), asyncio.TaskGroup() as group:
        async with site.server(ports) as server:
            rate = SHARE * await capacity(load, plan.capacity)
            loading = group.create_task(load.open(rate, LONG_SECONDS, tally, stop=over, retry=True))
            await asyncio.sleep(plan.around)
            killed = await _kill(server, restarts)
        for number in range(1, plan.kills + 1):
            async with site.server(ports) as server:
                restarts.seconds.append(time.perf_counter() - killed)
                await asyncio.sleep(plan.around)
                if number < plan.kills:
                    killed = await _kill(server, restarts)
                    continue
                over.set()
                await loading  # while there is somebody to answer
    return _killed(tally, restarts)


async def _kill(server: ServiceProcess, restarts: Restarts) -> float:
    """When it was, on the clock of `time.perf_counter`."""
    killed = time.perf_counter()
    os.kill(server.worker.pid, signal.SIGKILL)
    restarts.statuses.append(await asyncio.to_thread(server.ends, EXIT_SECONDS))
    return killed


def _killed(tally: Tally, restarts: Restarts) -> Finding:
    bad = tally.total - tally.of(Outcome.ANSWERED)
    latest = tally.percentiles(Outcome.ANSWERED, 100)[0]
    return Finding(
        "SIGKILL of the worker under load",
        f"{len(restarts.statuses)} times, at {SHARE:.0%} of capacity: the server ends with another "
        f"status than 0 and, started again, is ready {READY_SECONDS:.0f} s after the kill; clients "
        "that retry lose nothing",
        f"{tally.total:,} requests: {tally.of(Outcome.ANSWERED):,} answered, {bad} not; the "
        f"slowest took {latest / 1000:.1f} s; exit statuses {_words(restarts.statuses)}, "
        f"ready again after {max(restarts.seconds):.1f} s at most",
        not bad and tally.total > 0 and not {0, None} & set(restarts.statuses),
        max(restarts.seconds) <= READY_SECONDS,
        tally,
    )


def _words(statuses: Sequence[int | None]) -> str:
    return ", ".join(sorted(set(map(str, statuses))))


def quiet_ports(count: int) -> list[int]:
    """Free ports that the system gives to nobody else."""
    found: list[int] = []
    for port in range(LOWEST_PORT + os.getpid() % 5000, HIGHEST_PORT):
        with socket.socket() as probe:
            if len(found) < count and probe.connect_ex(("127.0.0.1", port)) != 0:
                found.append(port)
    return found
