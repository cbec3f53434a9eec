"""The rule: which line a free lane serves.

Rows wait in lines, one per priority, stage and carry shape, in the order in which they came; only
a request that has filled a whole batch lets the others go before what is left of it. A free lane
never idles while a row waits. Which line it serves:

1. **Priority.** Urgent rows (whose deadline the line would miss) before interactive before batch
   before shadow rows.
2. **Turns.** Between the entrance (stage 1) and the deeper stages of that priority: while rows wait
   on both sides they take turns, so that new rows, most of which leave at once, do not wait for
   hard ones, however many there are. Deeper stages get the time of a full batch at the entrance.
   When a full batch waits there, they get the time that the rows of such a batch may need at all
   deeper stages, but for full batches only: then a partial batch would be capacity lost.
3. **Which deeper stage.** The deepest one with a full batch; else the one whose rows have waited
   longest.
4. **Patience.** Rows that rules 1 to 3 pass over (of lower priority, or too few for a batch) are
   served before all others once they have waited in one line for 20 times what a full batch takes
   through all stages (longer in proportion, where more lines than stages are passed over); at most
   every second time, and never shadow rows. So of what full batches gain, at most one part in 20 is
   lost to partial ones, and no row starves.

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
        self._deep_time = 0.0  # milliseconds given to deeper stages since the entrance was served
        self._was_overdue = False

    def choose(self, lines: Collection[Line], now: float) -> Line | None:
        """The line that goes next, of those in which rows wait."""
        if len(lines) < 2:
            return next(iter(lines), None)
        top = min(line.priority for line in lines)
        overdue = [] if self._was_overdue else self._overdue(lines, top, now)
        self._was_overdue = bool(overdue)
        if overdue:
            return min(overdue, key=_came)
        served = [line for line in lines if line.priority == top]
        return self._in_turn(
            [line for line in served if line.stage == 1],
            [line for line in served if line.stage > 1],
        )

    def _overdue(self, lines: Collection[Line], top: int, now: float) -> list[Line]:
        passed_over = [
            line
            for line in lines
            if line.priority != Priority.SHADOW
            and (line.priority > top or (line.stage > 1 and not line.is_full))
        ]
        factor = max(1.0, len(passed_over) / self._stages)
        return [line for line in passed_over if now - line.since > factor * line.patience]

    def _in_turn(self, entrance: list[Line], deep: list[Line]) -> Line:
        if entrance and deep:
            rush = [line.follow_up for line in entrance if line.is_full]
            if rush:
                deep = [line for line in deep if line.is_full]
            first = min(entrance, key=_came)
            budget = max(rush, default=first.batch_time)
            if not deep or self._deep_time >= 0.999 * budget:  # sums of floats
                self._deep_time = 0.0
                return first
        if not deep:
            return min(entrance, key=_came)
        full = [line for line in deep if line.is_full]
        chosen = (
            min(full, key=lambda line: (-line.stage, line.since)) if full else min(deep, key=_came)
        )
        self._deep_time += chosen.batch_time
        return chosen


def _came(line: Line) -> float:
    return line.since
