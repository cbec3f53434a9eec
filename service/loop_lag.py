"""How late a busy event loop is, and how much earlier a deadline has to be looked at for that."""

from __future__ import annotations

HALF_LIFE_MS = 1000.0
WAITS = 2.0
"""A request has waited for the loop before it is read, and its answer waits to be written."""
MOST = 0.5
"""Of the time that is left."""


class LoopLag:
    """The most that timers were late of late.

    What was seen counts half as much after each second.
    """

    def __init__(self) -> None:
        self._late = self._seen = 0.0

    def saw(self, late: float, now: float) -> None:
        """A timer was called so late: milliseconds, both."""
        self._late, self._seen = max(late, self._at(now)), now

    def ahead(self, left: float, now: float) -> float:
        """Milliseconds before the deadline at which to answer, `left` before it."""
        return min(WAITS * self._at(now), MOST * left)

    def _at(self, now: float) -> float:
        return float(self._late * 0.5 ** ((now - self._seen) / HALF_LIFE_MS))
