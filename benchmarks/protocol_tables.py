"""The doors' times as tables and targets."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from engine_table import Table, Target, at_most, spread
from protocol_doors import BENTOML, OURS, Door
from protocol_rounds import Times

MOST_OF_BENTOML, MOST_OF_MLSERVER = 1.0, 0.5
DIGITS = 3


def added_table(
    times: Times, doors: Sequence[Door], names: Sequence[str], mlservers: Sequence[str]
) -> Table:
    """What every server adds, and ours over the peers'.

    Parameters
    ----------
    names : of all that are compared, a column each
    mlservers : those of them that are MLServer; we are compared with the quicker one
    """
    rows = [
        (
            door.name,
            *(spread(times.added(door.name, name), DIGITS) for name in names),
            spread(times.ratio(door.name, [BENTOML]), 2),
            spread(times.ratio(door.name, mlservers), 2),
        )
        for door in doors
    ]
    return Table(
        "Time added on top of the engine",
        "Milliseconds of a round trip, less what the server's work takes in process and without "
        "any protocol. The last columns are ours over theirs, for MLServer over the quicker "
        "setting in each round.",
        ("", *names, "over BentoML", "over MLServer"),
        rows,
    )


def round_trip_table(times: Times, doors: Sequence[Door], names: Sequence[str]) -> Table:
    """What was measured."""
    rows = [
        (
            door.name,
            *(spread(times.round_trip.get((door.name, name), ()), DIGITS) for name in names),
            spread(times.engine[door.name, OURS], DIGITS),
            spread(_peers_work(times, door, names), DIGITS),
        )
        for door in doors
    ]
    return Table(
        "Round trips, and the work without a protocol",
        "Milliseconds. Our work is `Dataplane.predict` of the same row, which checks its numbers "
        "and hands it to a lane and back; the peers add the row's numbers up.",
        ("", *names, "our work", "the peers' work"),
        rows,
    )


def door_targets(times: Times, doors: Sequence[Door], mlservers: Sequence[str]) -> list[Target]:
    """JSON against bare BentoML, binary tensors and gRPC against MLServer."""
    targets = []
    for door in doors:
        json = "JSON" in door.name
        peers, most = ([BENTOML], MOST_OF_BENTOML) if json else (mlservers, MOST_OF_MLSERVER)
        peer = "BentoML" if json else "MLServer"
        ratio = times.ratio(door.name, peers)
        targets.append(at_most(f"{door.name}, added time over {peer}'s", ratio, most))
    return targets


def _peers_work(times: Times, door: Door, names: Sequence[str]) -> np.ndarray:
    """The same of all peers; of one that has the door."""
    found = (times.engine.get((door.name, name)) for name in names if name != OURS)
    return next((work for work in found if work is not None), np.zeros(0))
