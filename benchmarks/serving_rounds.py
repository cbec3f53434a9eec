"""The rounds: in each, every server is loaded through each of its doors, taking turns.

Open loops come first, on servers that have seen no other load: BentoML's batching learns from what
it saw, and answers such loads at half the speed after it was saturated.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from protocol_cores import Cores, pin
from serving_case import Case
from serving_contenders import (
    Batching,
    Contender,
    Device,
    RunningContender,
    Way,
    contenders,
    started,
)
from serving_load import Latency, answers, open_loop, saturated
from serving_plan import TARGET_LOAD, Plan
from serving_sweep import SETTINGS, Sweep, Tried

PEER_KEY, QUICK_PEER_KEY = "c", "c'"
"""Whom the others are compared with: at its most rows per second, and at its lowest latency."""
LOADS = (0.5, TARGET_LOAD, 0.9)
GRPC_LOADS = (TARGET_LOAD,)


@dataclass
class Measured:
    """One contender through one door, a value per round.

    rate, single : rows per second, saturated with larger and with single-row requests
    answered : share of the requests of both
    cpu : seconds of CPU per 1,000 rows of the larger requests
    mib : memory
    latencies : by load
    sets : bool (n, L), its label sets of the pool
    """

    rate: list[float] = field(default_factory=list)
    single: list[float] = field(default_factory=list)
    answered: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    mib: list[float] = field(default_factory=list)
    latencies: dict[float, list[Latency]] = field(default_factory=dict)
    sets: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), bool))


Key = tuple[str, Way]


@dataclass(frozen=True)
class Outcome:
    """All of a case.

    capacity : single-row requests per second that (c) answers when saturated, from the sweep
    swept : by contender and setting
    """

    case: Case
    contenders: Sequence[Contender]
    capacity: float
    swept: Mapping[str, Mapping[Batching, Tried]]
    measured: Mapping[Key, Measured]


def measure(
    case: Case,
    plan: Plan,
    cores: Cores,
    folder: Path,
    mlserver_python: Path | None,
    device: Device = "cpu",
) -> Outcome:
    """Sweep the peers' settings, then load everybody in turns."""
    pin(cores.servers)
    sweep = Sweep(case, plan, cores, folder / "sweep", mlserver_python)
    chosen: list[Contender] = []
    for contender in contenders(case, folder / "models", mlserver_python is not None, device):
        if contender.kind in SETTINGS:
            chosen.append(replace(contender, batching=sweep.best(contender)))
        elif contender.kind == "eager":
            full = next(known for known in chosen if known.key == PEER_KEY)
            chosen.append(replace(contender, batching=full.batching))
        else:
            chosen.append(contender)
        if contender.key == PEER_KEY and plan.settings > 1 and case.asked:
            quickest = replace(contender, batching=sweep.quickest(chosen[-1]), key=QUICK_PEER_KEY)
            if quickest.batching != chosen[-1].batching:
                chosen.append(quickest)
    with ExitStack() as stack:
        running = {}
        for contender in chosen:
            place = folder / f"server{len(running)}"
            running[contender.key] = stack.enter_context(
                started(contender, case, place, mlserver_python)
            )
            print(f"{case.name}: started {contender.key} {contender.name}", flush=True)
        pin(cores.client)
        capacity = sweep.tried[PEER_KEY][running[PEER_KEY].contender.batching].single
        rounds = _Rounds(case, plan, running, capacity)
        asyncio.run(rounds.run())
        pin(cores.servers)
    return Outcome(case, chosen, capacity, sweep.tried, rounds.measured)


class _Rounds:
    def __init__(
        self, case: Case, plan: Plan, running: Mapping[str, RunningContender], capacity: float
    ) -> None:
        self.measured: dict[Key, Measured] = {
            (key, way): Measured() for key, one in running.items() for way in one.contender.ways
        }
        self._case, self._plan, self._running = case, plan, running
        self._capacity = capacity

    async def run(self) -> None:
        """Everything, in turns."""
        for number, key, way in self._turns():
            await self._stream(key, way, number)
            latency = self.measured[key, way].latencies[TARGET_LOAD][-1]
            self._say(number, key, way, f"p50 {latency.p50:.1f} ms, p99 {latency.p99:.1f} ms")
        for key, way in self.measured:
            await self._answer_pool(key, way)
        for number, key, way in self._turns():
            await self._load(key, way)
            told = self.measured[key, way]
            self._say(number, key, way, f"{told.rate[-1]:.0f} and {told.single[-1]:.0f} rows/s")

    def _turns(self) -> Iterator[tuple[int, str, Way]]:
        """Round by round, each beginning with somebody else."""
        order, rounds = list(self.measured), self._plan.rounds
        for number in range(rounds):
            shift = number * len(order) // rounds
            for key, way in [*order[shift:], *order[:shift]]:
                yield number, key, way

    def _say(self, number: int, key: str, way: Way, figures: str) -> None:
        place = f"round {number + 1} of {self._plan.rounds}"
        print(f"{self._case.name}: {place}, {key} {way}: {figures}", flush=True)

    async def _stream(self, key: str, way: Way, number: int) -> None:
        plan, running = self._plan, self._running[key]
        contender, measured = running.contender, self.measured[key, way]
        requests = self._case.requests(contender.format(way), contender.model, 1)
        door = running.door(way)
        if number == 0:
            await open_loop(door, requests, LOADS[0] * self._capacity, plan.load, 0)
        for load in LOADS if way == "JSON" else GRPC_LOADS:
            seed = 10 * number + LOADS.index(load)
            times = await open_loop(door, requests, load * self._capacity, plan.stream, seed)
            measured.latencies.setdefault(load, []).append(Latency.of(times))
        await door.close()

    async def _answer_pool(self, key: str, way: Way) -> None:
        case, contender = self._case, self._running[key].contender
        door = self._running[key].door(way)
        format_ = contender.format(way)
        requests = case.requests(format_, contender.model, self._plan.size)
        told = await answers(door, requests, max(1, self._plan.clients // 4))
        await door.close()
        self.measured[key, way].sets = np.concatenate([case.sets(format_, one) for one in told])

    async def _load(self, key: str, way: Way) -> None:
        case, plan, running = self._case, self._plan, self._running[key]
        contender, measured = running.contender, self.measured[key, way]
        larger = case.requests(contender.format(way), contender.model, plan.size)
        single = case.requests(contender.format(way), contender.model, 1)
        door = running.door(way)
        before = running.cpu_seconds
        found = await saturated(door, larger, plan.clients // 4, plan.warm, plan.load)
        spent = running.cpu_seconds - before
        measured.cpu.append(1000 * spent / max(1, found.total * plan.size))
        measured.rate.append(found.rate * plan.size)
        alone = await saturated(door, single, plan.clients, plan.warm, plan.load)
        measured.single.append(alone.rate)
        measured.answered.append(min(found.share, alone.share))
        measured.mib.append(running.mib)
        await door.close()
