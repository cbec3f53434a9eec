"""A trace: when the engine did what with the rows of one request."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class TracedRun:
    """One run of a stage; times are milliseconds on the engine's clock.

    stage : number of the exit behind it
    rows : of this request
    batch_rows : of all requests in the batch
    """

    stage: int
    begun: float
    ended: float
    rows: int
    batch_rows: int


@dataclass(frozen=True)
class TracedExit:
    """Rows of the request that left together, at one exit.

    exit : its number
    departed : milliseconds on the engine's clock
    lowest, highest : of their scores
    why : `policy`, `deadline` or `overload`
    """

    exit: int
    departed: float
    rows: int
    lowest: float
    highest: float
    why: str


@dataclass(eq=False)
class Trace:
    """Written under the engine's lock; whole when its request is answered or given up.

    queued : when the rows were admitted, milliseconds on the engine's clock; None before
    """

    queued: float | None = None
    runs: list[TracedRun] = field(default_factory=list)
    exits: list[TracedExit] = field(default_factory=list)

    def answered(self, left: TracedExit) -> float:
        """When the stage before the exit had run for rows that left there."""
        ends = (run.ended for run in self.runs if run.stage == left.exit)
        return max((end for end in ends if end <= left.departed), default=left.departed)
