"""The rounds: in each, every door of every server gets its requests, the servers taking turns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from time import perf_counter

import numpy as np
from protocol_clients import Call
from protocol_doors import ANSWER, OURS, Door, rows_of
from protocol_engine import BareEngines
from protocol_servers import Server


@dataclass(frozen=True)
class Plan:
    """How long things are measured.

    rounds : in which all doors and servers take turns
    requests : of one door of one server, in one round
    warm : requests before them that do not count
    """

    rounds: int = 7
    requests: int = 200
    warm: int = 20


QUICK = Plan(2, 5, 2)


@dataclass(frozen=True)
class Times:
    """Milliseconds by round, float (rounds,) each: medians over the requests of a round.

    round_trip : by the door's and the server's name
    engine : by the door's and the server's name: of the server's own work without any protocol
    """

    round_trip: Mapping[tuple[str, str], np.ndarray]
    engine: Mapping[tuple[str, str], np.ndarray]

    def added(self, door: str, server: str) -> np.ndarray:
        """What the protocol adds, float (rounds,); empty where the server has no such door."""
        key = (door, server)
        if key not in self.round_trip:
            return np.zeros(0)
        added: np.ndarray = self.round_trip[key] - self.engine[key]
        return added

    def ratio(self, door: str, peers: Sequence[str]) -> np.ndarray:
        """What we add over what the quickest of the peers adds, float (rounds,), or empty."""
        others = [self.added(door, peer) for peer in peers if (door, peer) in self.round_trip]
        if not others:
            return np.zeros(0)
        ratio: np.ndarray = self.added(door, OURS) / np.min(others, axis=0)
        return ratio


def measure(
    doors: Sequence[Door],
    names: Sequence[str],
    servers: Mapping[str, Server],
    engines: BareEngines,
    plan: Plan,
) -> Times:
    """Measure every door.

    Parameters
    ----------
    names : of those that are compared
    servers : see `Door.connect`
    """
    pairs = [(door, name) for door in doors for name in names if door.is_of(name)]
    round_trip = {(door.name, name): np.zeros(plan.rounds) for door, name in pairs}
    engine = {key: np.zeros(plan.rounds) for key in round_trip}
    for turn in range(plan.rounds):
        order = [*names[turn % len(names) :], *names[: turn % len(names)]]
        for door, name in sorted(pairs, key=lambda p: (doors.index(p[0]), order.index(p[1]))):
            # a new connection each time: servers close those that were idle for some seconds
            with closing(door.connect(name, servers)) as call:
                _check(door.name, name, call)
                round_trip[door.name, name][turn] = _milliseconds(call, plan)
            engine[door.name, name][turn] = _engine(engines, door, name, plan)
    return Times(round_trip, engine)


def _check(door: str, name: str, call: Call) -> None:
    answer = call()
    if ANSWER.encode() not in answer:
        raise SystemExit(
            f"{door}, {name}: found {answer[:400]!r}, expected an answer with {ANSWER!r}"
        )


def _milliseconds(call: Call, plan: Plan) -> float:
    """Median round trip."""
    times = np.empty(plan.warm + plan.requests)
    for place in range(len(times)):
        begun = perf_counter()
        call()
        times[place] = perf_counter() - begun
    return float(np.median(times[plan.warm :])) * 1e3


def _engine(engines: BareEngines, door: Door, name: str, plan: Plan) -> float:
    rows = rows_of(door.size)
    if name == OURS:
        return engines.milliseconds(door.size, rows, plan.warm, plan.requests)
    return engines.peer_milliseconds(rows, plan.warm, plan.requests)
