"""The settings of peers: each is tried for a moment, on a server of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import sqrt
from pathlib import Path

import numpy as np
from protocol_cores import Cores, pin
from serving_case import Case
from serving_contenders import (
    BENTOML_SETTINGS,
    MLSERVER_SETTINGS,
    Batching,
    Contender,
    RunningContender,
    started,
)
from serving_load import Latency, Saturated, open_loop, saturated
from serving_plan import TARGET_LOAD, Plan

SETTINGS = {"BentoML": BENTOML_SETTINGS, "MLServer": MLSERVER_SETTINGS}
ROOM = 0.9
CLEARLY = 0.8
"""Of the chosen setting's p50: what a quicker one may have at most."""
LEAST_ANSWERED = 0.999


@dataclass(frozen=True)
class Tried:
    """One setting of a peer.

    single, larger : rows per second, saturated with single-row and with larger requests
    share : of the requests that were answered, of single rows or of more: the lesser
    p50 : milliseconds in an open loop; infinite where it was not measured
    """

    single: float
    larger: float
    share: float
    p50: float = float("inf")

    @property
    def works(self) -> bool:
        """Whether no request is left unanswered, or hardly one."""
        return self.share >= LEAST_ANSWERED

    @property
    def worth(self) -> float:
        """Geometric mean of both rates; nothing where requests are left unanswered."""
        return sqrt(self.single * self.larger) if self.works else 0.0

    def __str__(self) -> str:
        p50 = "" if np.isinf(self.p50) else f", p50 {self.p50:.1f} ms"
        rates = f"{self.single:.0f} and {self.larger:.0f} rows/s"
        return f"{rates}, {self.share:.1%} answered{p50}"


class Sweep:
    """Tries settings of peers, each with a server of its own.

    tried : by contender and setting
    """

    def __init__(
        self, case: Case, plan: Plan, cores: Cores, folder: Path, mlserver_python: Path | None
    ) -> None:
        self.tried: dict[str, dict[Batching, Tried]] = {}
        self._case, self._plan, self._cores = case, plan, cores
        self._folder, self._mlserver_python = folder, mlserver_python

    def best(self, contender: Contender) -> Batching:
        """The setting with the most rows per second, of those that leave no request unanswered."""
        tried = self.tried.setdefault(contender.key, {})
        for batching in SETTINGS[contender.kind][: self._plan.settings]:
            with self._running(contender, batching) as running:
                tried[batching] = asyncio.run(self._loads(running))
            self._say(contender, batching)
        return max(tried, key=lambda setting: tried[setting].worth)

    def quickest(self, contender: Contender) -> Batching:
        """The setting with the lowest p50, where (c) as it was chosen is loaded by 70 %.

        The chosen one again, where that is not clearly quicker.
        """
        tried = self.tried[contender.key]
        rate = TARGET_LOAD * tried[contender.batching].single
        for batching, found in tried.items():
            if not found.works or found.single < rate / ROOM:
                continue  # it would drown
            with self._running(contender, batching) as running:
                latency = asyncio.run(self._latency(running, rate))
            tried[batching] = replace(found, p50=latency.p50)
            self._say(contender, batching)
        found = min(tried, key=lambda setting: tried[setting].p50)
        clear = tried[found].p50 < CLEARLY * tried[contender.batching].p50
        return found if clear else contender.batching

    async def _loads(self, running: RunningContender) -> Tried:
        plan, case = self._plan, self._case
        alone = await _first_load(running, case, plan, 1, plan.clients, plan.sweep)
        larger = await _first_load(running, case, plan, plan.size, plan.clients // 4, plan.sweep)
        return Tried(alone.rate, larger.rate * plan.size, min(alone.share, larger.share))

    async def _latency(self, running: RunningContender, rate: float) -> Latency:
        contender, door = running.contender, running.door("JSON")
        requests = self._case.requests(contender.format("JSON"), contender.model, 1)
        await open_loop(door, requests, rate, self._plan.sweep, 0)
        times = await open_loop(door, requests, rate, 2 * self._plan.sweep, 1)
        await door.close()
        return Latency.of(times)

    @contextmanager
    def _running(self, contender: Contender, batching: Batching) -> Iterator[RunningContender]:
        tried = replace(contender, batching=batching)
        place = self._folder / f"{contender.key}-{batching}".replace(" ", "")
        with started(tried, self._case, place, self._mlserver_python) as running:
            pin(self._cores.client)
            try:
                yield running
            finally:
                pin(self._cores.servers)

    def _say(self, contender: Contender, batching: Batching) -> None:
        found = self.tried[contender.key][batching]
        line = f"{self._case.name}: {contender.key}, batching {batching}: {found}"
        print(line, flush=True)


async def _first_load(
    running: RunningContender, case: Case, plan: Plan, size: int, clients: int, seconds: float
) -> Saturated:
    """Over JSON, on new connections; warmed up for longer, as the server is new."""
    contender, door = running.contender, running.door("JSON")
    requests = case.requests(contender.format("JSON"), contender.model, size)
    found = await saturated(door, requests, clients, plan.warm + seconds / 2, seconds)
    await door.close()
    return found
