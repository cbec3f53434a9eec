"""When the lanes' runs should end: who is free soon, and who is stuck."""

from __future__ import annotations

from math import inf

STUCK_MS, STUCK_RUNS = 60_000.0, 100.0  # a run is stuck after both: a minute, 100 times its cost
SOON_MS = 0.5


class RunClock:
    """Each lane writes its own entry, without a lock; infinite while it runs nothing.

    Parameters
    ----------
    lanes : how many there are
    """

    def __init__(self, lanes: int) -> None:
        self._ends = [inf] * lanes
        self._overdue = [inf] * lanes

    def begin(self, lane: int, now: float, expected: float) -> None:
        """A lane runs a batch that should take so long: milliseconds, on the engine's clock."""
        self._ends[lane] = now + expected
        self._overdue[lane] = now + max(STUCK_MS, STUCK_RUNS * expected)

    def end(self, lane: int) -> None:
        """It is done."""
        self._ends[lane] = self._overdue[lane] = inf

    def soon_free(self, now: float) -> bool:
        """Whether a lane should be free in a moment: it takes rows sooner than one that sleeps."""
        return any(abs(end - now) < SOON_MS for end in self._ends)

    def stuck(self, now: float) -> int | None:
        """A lane whose run should have ended long ago."""
        return next((lane for lane, due in enumerate(self._overdue) if now > due), None)
