"""The rounds: in each, every server is loaded through each of its doors, taking turns."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from protocol_cores import Cores, pin
from serving_case import Case
from serving_contenders import (
    BENTOML_SETTINGS,
    MLSERVER_SETTINGS,
    Batching,
    Contender,
    Device,
    RunningContender,
    Way,
    contenders,
    started,
)
from serving_load import Saturated, answers, open_loop, saturated

PEER_KEY, QUICK_PEER_KEY = "c", "c'"
"""Whom the others are compared with: at its most rows per second, and at its lowest latency."""
SETTINGS = {"BentoML": BENTOML_SETTINGS, "MLServer": MLSERVER_SETTINGS}
SWEPT_LOAD, ROOM = 0.7, 0.9
LOADS = (0.5, 0.7, 0.9)
GRPC_LOADS = (0.7,)
SHARES = (50, 95, 99)
LEAST_ANSWERED = 0.999


@dataclass(frozen=True)
class Plan:
    """How long things are measured.

    rounds : in which all take turns
    rows : of the pool, all of them answered once by everybody
    size : rows of the larger requests
    clients : that wait for their answers, with single-row requests; a quarter of them with others
    warm, load : seconds of a saturating load before it counts, and while it does
    stream : seconds of an open loop
    sweep : seconds of load for each setting of a peer
    settings : of each peer that are tried, at most
    """

    rounds: int = 3
    rows: int = 1536
    size: int = 8
    clients: int = 64
    warm: float = 0.7
    load: float = 1.5
    stream: float = 3.0
    sweep: float = 1.0
    settings: int = 7


QUICK = Plan(rounds=2, rows=256, warm=0.4, load=0.8, stream=0.8, sweep=0.3, settings=1)


@dataclass(frozen=True)
class Latency:
    """Of one open loop.

    answered : share of the requests
    """

    p50: float
    p95: float
    p99: float
    answered: float

    @classmethod
    def of(cls, milliseconds: np.ndarray) -> Latency:
        """From times that are infinite where there was no answer."""
        p50, p95, p99 = np.percentile(milliseconds, SHARES, method="lower").tolist()
        return cls(p50, p95, p99, float(np.isfinite(milliseconds).mean()))


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


@dataclass(frozen=True)
class Tried:
    """One setting of a peer.

    rate : single-row requests per second, saturated
    share : of the requests that were answered, of single rows or of more: the lesser
    p50 : milliseconds in an open loop; infinite where it was not measured
    """

    rate: float
    share: float
    p50: float = float("inf")

    @property
    def worth(self) -> float:
        """The rate; nothing where requests are left unanswered."""
        return self.rate if self.share >= LEAST_ANSWERED else 0.0

    def __str__(self) -> str:
        p50 = "" if np.isinf(self.p50) else f", p50 {self.p50:.1f} ms"
        return f"{self.rate:.0f} rows/s, {self.share:.1%} answered{p50}"


Key = tuple[str, Way]


@dataclass(frozen=True)
class Outcome:
    """All of a case.

    capacity : single-row requests per second that (c) answers when saturated, before the rounds
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
    sweep = _Sweep(case, plan, cores, folder / "sweep", mlserver_python)
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
            _say(f"{case.name}: started {contender.key} {contender.name}")
        pin(cores.client)
        rounds = _Rounds(case, plan, running)
        asyncio.run(rounds.run())
        pin(cores.servers)
    return Outcome(case, chosen, rounds.capacity, sweep.tried, rounds.measured)


class _Sweep:
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
        """The setting that answers most rows, of those that leave no request unanswered."""
        tried = self.tried.setdefault(contender.key, {})
        for batching in SETTINGS[contender.kind][: self._plan.settings]:
            with self._running(contender, batching) as running:
                tried[batching] = asyncio.run(self._loads(running))
            self._say(contender, batching)
        return max(tried, key=lambda setting: tried[setting].worth)

    def quickest(self, contender: Contender) -> Batching:
        """The setting with the lowest p50, where (c) as it was chosen is loaded by 70 %."""
        tried = self.tried[contender.key]
        rate = SWEPT_LOAD * tried[contender.batching].rate
        for batching, found in tried.items():
            if found.worth < rate / ROOM:
                continue  # it would drown
            with self._running(contender, batching) as running:
                latency = asyncio.run(self._latency(running, rate))
            tried[batching] = replace(found, p50=latency.p50)
            self._say(contender, batching)
        return min(tried, key=lambda setting: tried[setting].p50)

    async def _loads(self, running: RunningContender) -> Tried:
        """Judged by single rows, but it has to answer larger requests as well."""
        plan, case = self._plan, self._case
        alone = await _saturated(running, case, plan, 1, plan.clients, plan.sweep)
        larger = await _saturated(running, case, plan, plan.size, plan.clients // 4, plan.sweep)
        return Tried(alone.rate, min(alone.share, larger.share))

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
        _say(f"{self._case.name}: {contender.key}, batching {batching}: {found}")


async def _saturated(
    running: RunningContender, case: Case, plan: Plan, size: int, clients: int, seconds: float
) -> Saturated:
    """Over JSON, on new connections; warmed up for longer, as the server is new."""
    contender, door = running.contender, running.door("JSON")
    requests = case.requests(contender.format("JSON"), contender.model, size)
    found = await saturated(door, requests, clients, plan.warm + seconds / 2, seconds)
    await door.close()
    return found


class _Rounds:
    def __init__(self, case: Case, plan: Plan, running: Mapping[str, RunningContender]) -> None:
        self.capacity = 0.0
        self.measured: dict[Key, Measured] = {
            (key, way): Measured() for key, one in running.items() for way in one.contender.ways
        }
        self._case, self._plan, self._running = case, plan, running

    async def run(self) -> None:
        """Everything, in turns."""
        for key, way in self.measured:
            await self._answer_pool(key, way)
        peer = self._running[PEER_KEY]
        plan = self._plan
        full = await _saturated(peer, self._case, plan, 1, plan.clients, plan.load)
        self.capacity = full.rate
        order = list(self.measured)
        for number in range(self._plan.rounds):
            shift = number * len(order) // self._plan.rounds
            for key, way in [*order[shift:], *order[:shift]]:
                await self._load(key, way, number)
                told = self.measured[key, way]
                _say(
                    f"{self._case.name}: round {number + 1} of {self._plan.rounds}, {key} {way}: "
                    f"{told.rate[-1]:.0f} and {told.single[-1]:.0f} rows/s"
                )

    async def _answer_pool(self, key: str, way: Way) -> None:
        case, contender = self._case, self._running[key].contender
        door = self._running[key].door(way)
        format_ = contender.format(way)
        requests = case.requests(format_, contender.model, self._plan.size)
        told = await answers(door, requests, max(1, self._plan.clients // 4))
        await door.close()
        self.measured[key, way].sets = np.concatenate([case.sets(format_, one) for one in told])

    async def _load(self, key: str, way: Way, number: int) -> None:
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
        for load in LOADS if way == "JSON" else GRPC_LOADS:
            seed = 10 * number + LOADS.index(load)
            times = await open_loop(door, single, load * self.capacity, plan.stream, seed)
            measured.latencies.setdefault(load, []).append(Latency.of(times))
        measured.mib.append(running.mib)
        await door.close()


def _say(line: str) -> None:
    print(line, flush=True)
