"""Admission: which requests the service takes on, and what it says to the others."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import Literal

import numpy as np

from models.errors import DeadlineExceeded, Overloaded
from service.costs import CostModel, Shape
from service.request import Priority
from service.scheduler import Scheduler

Overload = Literal["refuse", "shallow"]

SHALLOW_FROM, SHALLOW_UNTIL = 0.5, 0.25  # shares of what may wait
MEMORY = 0.99  # of the observed depth, per batch


class Admission:
    """Bounded rows, a bounded wait, and deadlines that can be met.

    The wait that is bounded is the worst case, every row at full depth: inputs can be made that
    leave nowhere early. Deadlines and `retry_after` go by what rows were seen to need.

    Parameters
    ----------
    scheduler : whose lines are looked at
    max_wait : milliseconds that a new row may have to wait at worst
    overload : what happens when much waits: requests are refused when the bound is reached, or
        rows leave at the exit that they have reached from half of the bound on (`shallow`)
    """

    def __init__(
        self, scheduler: Scheduler, costs: CostModel, max_wait: float, overload: Overload = "refuse"
    ) -> None:
        self._scheduler = scheduler
        self._costs = costs
        self._max_wait = max_wait
        self._overload = overload
        self._shallow = False
        # rows seen at every stage, each counting less with time; at first all went to the end
        self._seen = [1.0] * costs.stages

    def check(
        self, groups: Sequence[tuple[Shape, int]], priority: int, deadline: float, now: float
    ) -> None:
        """Refuse rows that there is no room or no time for.

        Raises
        ------
        Overloaded
            When they might fit later.
        DeadlineExceeded
            When not even an idle service could answer in time.
        """
        count = sum(rows for _, rows in groups)
        table = self._scheduler.rows
        if count > table.room:
            missing = (count - table.room) / table.capacity
            raise Overloaded(
                f"the queue is full: {len(table)} of {table.capacity} rows are waiting and the "
                f"request brings {count}; try again later",
                "rows",
                missing * self.depth_share * self._scheduler.wait(priority) / 1000,
            )
        wait = self._scheduler.wait(priority)
        if wait > self._max_wait:
            raise Overloaded(
                f"the rows that wait may take {wait:.0f} ms, expected at most "
                f"{self._max_wait:.0f} ms; try again later",
                "wait",
                self.depth_share * (wait - self._max_wait) / 1000,
            )
        if deadline < inf:
            self._check_deadline(groups, priority, deadline - now)

    def saw(self, stage: int, rows: int) -> None:
        """A batch of `rows` rows ran in stage `stage`."""
        if stage == 1:
            self._seen = [MEMORY * seen for seen in self._seen]
        self._seen[stage - 1] += (1 - MEMORY) * rows

    @property
    def depth_share(self) -> float:
        """Stage time that a row was seen to need, as a share of the full depth's."""
        base = self._costs.base
        times = [self._costs.row_milliseconds(k, base) for k in range(1, self._costs.stages + 1)]
        reached = np.minimum(1.0, np.divide(self._seen, self._seen[0]))
        return float(reached @ times / sum(times))

    @property
    def shallow(self) -> bool:
        """Whether rows are to leave at the exit that they have reached."""
        if self._overload == "refuse":
            return False
        table = self._scheduler.rows
        wait = self._scheduler.wait(Priority.BATCH)
        waiting = max(len(table) / table.capacity, wait / self._max_wait)
        self._shallow = waiting > (SHALLOW_UNTIL if self._shallow else SHALLOW_FROM)
        return self._shallow

    def _check_deadline(
        self, groups: Sequence[tuple[Shape, int]], priority: int, left: float
    ) -> None:
        run = max(self._costs.milliseconds(1, shape, 1) for shape, _ in groups)
        if run > left:
            raise DeadlineExceeded(
                f"the deadline is {max(0.0, left):.1f} ms away, and the first exit alone takes "
                f"{run:.1f} ms; allow more time"
            )
        entrance = self._scheduler.wait(priority, stages=1)
        deeper = self._scheduler.wait(priority) - entrance
        # deeper stages take turns with the entrance: as much as its rows may need there, at most
        wait = min(entrance, self.depth_share * entrance + deeper)
        if wait + run > left:
            raise Overloaded(
                f"a row waits for about {wait:.0f} ms now, which is more than the deadline of "
                f"{left:.0f} ms allows; try again later, or allow more time",
                "deadline",
                (wait + run - left) / 1000,
            )
