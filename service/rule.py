"""The rule: which line a free lane serves.

Rows wait in lines, one per priority, stage and carry shape. A free lane never idles while a row
waits. Which line it serves:

1. **Priority.** Urgent rows (whose deadline the line would miss) before interactive before batch
   before shadow rows.
2. **Turns.** Between the entrance (stage 1) and the deeper stages of that priority: while rows wait
   on both sides they take turns, so that new rows, most of which leave at once, do not wait for
   hard ones, however many there are. When a full batch waits at the entrance, deeper stages get up
   to S - 1 turns in a row, as many as full batches from the entrance can ask for, but for full
   batches only: then a partial batch would be capacity lost.
3. **Which deeper stage.** The deepest one with a full batch; else the one whose rows have waited
   longest.
4. **Patience.** Rows that rules 1 to 3 pass over (of lower priority, or too few for a batch) are
   served before all others once they have waited in one line for 20 times what a full batch takes
   through all stages; at most every second time, and never shadow rows. So what full batches gain
   is never lost to partial ones (at most one in 20), and no row starves.

How many rows: a full batch, by the cost model. Fewer where they are fewer; where other lanes are
idle and nothing else waits, which then share the rows; and where the batch would take longer than
the nearest deadline in it allows (never fewer than half a full batch, though: tight deadlines must
not eat the capacity). Rows that no such run can answer in time come back as late.
"""

from __future__ import annotations

from collections.abc import Collection

from service.line import Line
from service.request import Priority

URGENT = 0
"""A priority that only the scheduler gives."""


class Rule:
    """Remembers whose turn it is.

    Parameters
    ----------
    stages : S
    """

    def __init__(self, stages: int) -> None:
        self._stages = stages
        self._deep_turns = 0  # since the entrance was served
        self._was_overdue = False

    def choose(self, lines: Collection[Line], now: float) -> Line | None:
        """The line that goes next, of those in which rows wait."""
        if len(lines) < 2:
            return next(iter(lines), None)
        top = min(line.priority for line in lines)
        if not self._was_overdue:
            overdue = [line for line in lines if _is_overdue(line, top, now)]
            if overdue:
                self._was_overdue = True
                return min(overdue, key=lambda line: line.since)
        self._was_overdue = False
        served = [line for line in lines if line.priority == top]
        entrance = [line for line in served if line.stage == 1]
        deep = [line for line in served if line.stage > 1]
        if entrance and deep:
            rush = any(line.is_full for line in entrance)
            if rush:
                deep = [line for line in deep if line.is_full]
            if not deep or self._deep_turns >= (self._stages - 1 if rush else 1):
                self._deep_turns = 0
                return min(entrance, key=lambda line: line.since)
            self._deep_turns += 1
        if not deep:
            return min(entrance, key=lambda line: line.since)
        return min(
            deep, key=lambda line: (not line.is_full, -line.stage * line.is_full, line.since)
        )


def _is_overdue(line: Line, top: int, now: float) -> bool:
    passed_over = line.priority > top or (line.stage > 1 and not line.is_full)
    return passed_over and line.priority != Priority.SHADOW and now - line.since > line.patience
