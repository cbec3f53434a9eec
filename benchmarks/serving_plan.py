"""How long things are measured."""

from dataclasses import dataclass

TARGET_LOAD = 0.7
"""Share of what (c) answers: where the targets are, and peers' settings are compared."""


@dataclass(frozen=True)
class Plan:
    """How long things are measured.

    rounds : in which all take turns
    rows : of the pool, all of them answered once by everybody
    size : rows of the larger requests
    clients : that wait for their answers, with single-row requests; a quarter of them with others
    warm, load : seconds of a saturating load before it counts, and while it does;
        the latter also of a first open loop, which does not count
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
    sweep: float = 1.5
    settings: int = 7


QUICK = Plan(rounds=2, rows=256, warm=0.4, load=0.8, stream=0.8, sweep=0.3, settings=1)
