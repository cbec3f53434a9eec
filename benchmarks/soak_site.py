"""What every test under load runs on: a bundle, rows with their answers, and servers over it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reliability_server import ServiceProcess, start_service
from soak_client import Client
from soak_load import Load, Tally
from soak_mix import make_mix
from soak_oracle import Oracle

from models.bundle import Bundle
from models.encoding import RawRows

REQUESTS = 600
"""Of a mix, which is sent again and again."""
CLIENTS = 32
"""That wait for their answers, where the capacity is measured."""
SPELLS = 8
"""Of measuring the capacity."""


@dataclass(frozen=True)
class Plan:
    """How long things last.

    soak : minutes
    capacity : seconds of measuring it
    overload, probe : seconds
    terms, reloads, kills : how often
    around : seconds of load before a signal, and after it
    """

    soak: float = 30.0
    capacity: float = 120.0
    overload: float = 120.0
    probe: float = 6.0
    terms: int = 20
    reloads: int = 50
    kills: int = 3
    around: float = 2.0

    @classmethod
    def of(cls, minutes: float) -> Plan:
        """As long as the soak lasts, the others in proportion."""
        share = min(1.0, minutes / cls.soak)
        return cls(
            soak=minutes,
            capacity=max(4.0, share * cls.capacity),
            overload=max(4.0, share * cls.overload),
            probe=max(3.0, share * cls.probe),
            terms=max(1, round(share * cls.terms)),
            reloads=max(3, round(share * cls.reloads)),
            kills=max(1, round(share * cls.kills)),
            around=max(1.0, share * cls.around),
        )


@dataclass(frozen=True)
class Finding:
    """What a test found.

    correct : whether all is as it must be anywhere, however slow the machine
    in_time : whether the times and the memory are as expected
    """

    test: str
    expected: str
    found: str
    correct: bool
    in_time: bool
    tally: Tally


@dataclass(frozen=True)
class Site:
    """settings : of every server, as environment variables
    standing : a server that runs already, for tests that do not end it
    """

    bundle: Bundle
    rows: RawRows
    oracles: Sequence[Oracle]
    folder: Path
    settings: dict[str, str]
    standing: ServiceProcess | None = None

    @asynccontextmanager
    async def server(
        self, ports: Sequence[int] = (), **settings: str
    ) -> AsyncIterator[ServiceProcess]:
        """A server that is ready; ended with the block, when it has not ended before."""
        if self.standing and not (ports or settings):
            yield self.standing
            return
        chosen: dict[str, Any] = {
            "OFFRAMP_BUNDLE": str(self.bundle.path),
            **self.settings,
            **settings,
        }
        server = start_service(self.folder, ports=ports, **chosen)
        try:
            await asyncio.to_thread(server.wait_until_ready)
            yield server
        finally:
            await asyncio.to_thread(server.stop)

    @asynccontextmanager
    async def load(
        self, http: int, grpc: int, seed: int = 0, deadline_ms: float | None = None
    ) -> AsyncIterator[Load]:
        """A load upon a server, given by its ports."""
        manifest = self.bundle.manifest
        mix = make_mix(self.rows, manifest, REQUESTS, seed, deadline_ms)
        client = Client(http, grpc, manifest.labels)
        try:
            yield Load(client, mix, {oracle.version: oracle for oracle in self.oracles})
        finally:
            await client.close()


async def capacity(load: Load, seconds: float) -> float:
    """Requests per second that are answered when clients wait for them.

    The least of some spells, the first of which only warms up: a machine that is shared with
    others gives more for seconds than it does for minutes.
    """
    spells = [await load.closed(CLIENTS, seconds / SPELLS, Tally()) for _ in range(SPELLS)]
    return min(spells[1:])
