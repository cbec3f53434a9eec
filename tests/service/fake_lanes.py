"""Lanes on a fake clock: they drive a scheduler, and check at every step what must always hold.

The carry of a row is its number and the stage that it goes into, so that a row that meets the carry
of another row, or of another stage, is seen at once.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import Literal

import numpy as np

from models.runtime import Carry, join_pieces
from service.costs import CostModel, Shape
from service.line import SHADOW_PARTS
from service.request import Priority
from service.row_table import NOWHERE
from service.rule import URGENT
from service.scheduler import Batch, Mode, Scheduler

Ending = Literal["left", "late", "removed"]


EIGHT: Shape = ((8,),)


def flat_costs(stages: int, full: int) -> CostModel:
    """A run of every stage takes 1 ms, whether of one row or a full batch of rows of `EIGHT`."""
    return CostModel((1, full), [[1.0, 1.0]] * stages, full, EIGHT)


@dataclass(frozen=True)
class Request:
    """Rows that arrive together.

    groups : a shape, and the exit of each row of that shape
    time : milliseconds from arrival to the deadline
    """

    groups: tuple[tuple[Shape, tuple[int, ...]], ...]
    priority: Priority = Priority.INTERACTIVE
    time: float = float("inf")


@dataclass(eq=False)
class Row:
    """What becomes of a row: `stage` is the one that it waits for, runs in, or ended at."""

    id: int
    number: int
    shape: Shape
    exit: int
    priority: Priority
    deadline: float
    entered: float
    stage: int = 1
    waits: bool = True
    ending: Ending | None = None
    ended: float = float("inf")


@dataclass(frozen=True)
class Run:
    """A batch that ran."""

    stage: int
    rows: list[Row]
    full: int
    start: float
    milliseconds: float


class FakeLanes:
    """Plays the lanes of an engine.

    Parameters
    ----------
    compacts : the runtime hands on only the rows that stay
    careful : look at every row at every step; off where many are only counted
    """

    def __init__(
        self,
        costs: CostModel,
        capacity: int,
        mode: Mode = "rebatch",
        lanes: int = 1,
        compacts: bool = False,
        careful: bool = True,
    ) -> None:
        self.scheduler = Scheduler(costs, capacity, lanes, mode)
        self.now = 0.0
        self.rows: list[Row] = []
        self.live: dict[int, Row] = {}
        self.runs: list[Run] = []
        self._costs = costs
        self._compacts = compacts
        self._careful = careful
        self._idle = lanes
        self._running: list[tuple[float, int, Batch, Carry]] = []
        self._ids: set[int] = set()

    def enter(self, request: Request) -> list[Row]:
        """The rows of a request; none where there is no room for all of them."""
        entered: list[Row] = []
        if sum(len(exits) for _, exits in request.groups) > self.scheduler.rows.room:
            return entered
        deadline = self.now + request.time
        first = len(self.rows)
        groups = []
        for shape, exits in request.groups:
            numbers = np.arange(first, first + len(exits))
            groups.append((shape, len(exits), (np.stack([numbers, np.ones_like(numbers)], 1),)))
            first += len(exits)
        ids = self.scheduler.enter(groups, request.priority, deadline, self.now)
        for (shape, exits), group in zip(request.groups, ids, strict=True):
            for leaves, name in zip(exits, group.tolist(), strict=True):
                number, priority = len(self.rows), request.priority
                row = Row(name, number, shape, leaves, priority, deadline, self.now)
                assert row.id not in self._ids, "an id names one row ever"
                self._ids.add(row.id)
                self.live[row.id] = row
                self.rows.append(row)
                entered.append(row)
        self._check_lines()
        self._start()
        return entered

    def cancel(self, rows: list[Row]) -> None:
        """Rows are not wanted any more, wherever they are; some may be gone already."""
        for row in rows:
            if row.ending is None:
                self._end(row, "removed")
        self.scheduler.remove(np.array([row.id for row in rows], np.int64))
        self._check_lines()

    def step(self) -> bool:
        """Let time pass to the end of the next batch; False where none runs."""
        if not self._running:
            return False
        self.now, _, batch, carry = heappop(self._running)
        self._finish(batch, carry)
        self._check_lines()
        self._start()
        return True

    def advance(self, milliseconds: float) -> None:
        """Let time pass."""
        until = self.now + milliseconds
        while self._running and self._running[0][0] <= until:
            self.step()
        self.now = until

    def drain(self) -> None:
        """Until nothing runs any more."""
        while self.step():
            pass

    def waiting(self) -> list[Row]:
        """Rows that no lane runs."""
        return [row for row in self.live.values() if row.waits]

    def _end(self, row: Row, ending: Ending) -> None:
        assert row.ending is None, "a row leaves once"
        row.ending, row.ended, row.waits = ending, self.now, False
        del self.live[row.id]

    def _start(self) -> None:
        while self._idle:
            waiting = self.waiting() if self._careful else []
            lines = {row.id: self._line(row) for row in waiting}
            batch = self.scheduler.pick(self.now, self._idle)
            if batch is None:
                assert not waiting, "a lane idles while rows wait"
                return
            if self._careful:
                self._check_pick(batch, waiting, lines)
            if self._run(batch):
                self._idle -= 1

    def _run(self, batch: Batch) -> bool:
        assert len(batch.ids) or len(batch.late)
        for name in batch.late.tolist():
            self._end(self.live[name], "late")
        self.scheduler.remove(batch.late)
        rows = [self.live[name] for name in batch.ids.tolist()]
        if not rows:
            return False
        took = self._costs.milliseconds(batch.stage, batch.shape, len(rows))
        for row in rows:
            assert (row.stage, row.shape) == (batch.stage, batch.shape)
            assert row.deadline - self.now >= took, "it cannot end in time"
            row.waits = False
        carry = join_pieces(batch.pieces)
        expected = [[row.number, batch.stage] for row in rows]
        np.testing.assert_array_equal(carry[0], expected, "a row has the carry of another")
        self.runs.append(Run(batch.stage, rows, batch.full, self.now, took))
        heappush(self._running, (self.now + took, len(self.runs), batch, carry))
        self._check_lines()
        return True

    def _finish(self, batch: Batch, carry: Carry) -> None:
        exits = np.array([self.rows[number].exit for number in carry[0][:, 0].tolist()])
        leave = batch.ids[exits == batch.stage]
        for name in leave.tolist():
            if name in self.live:
                self._end(self.live[name], "left")
        self.scheduler.remove(leave)
        stay = np.flatnonzero(exits > batch.stage)
        for name in batch.ids[stay].tolist():
            if name in self.live:
                self.live[name].stage += 1
                self.live[name].waits = True
        made = carry[0] + [0, 1]
        made = made[stay] if self._compacts else made
        follows = self.scheduler.go_on(batch, stay, (made,), self._compacts, self.now)
        if follows is None or not self._run(follows):
            self._idle += 1

    def _line(self, row: Row) -> int:
        table = self.scheduler.rows
        return int(table.line[row.id % table.capacity])

    def _check_lines(self) -> None:
        """The lines hold the rows that wait, and say how many."""
        assert len(self.live) == len(self.scheduler.rows) <= self.scheduler.rows.capacity
        if not self._careful:
            return
        waiting = self.waiting()
        lines = list(self.scheduler.lines())
        assert {line.number: line.rows for line in lines} == Counter(map(self._line, waiting))
        where = {line.number: (line.stage, line.shape, line.priority) for line in lines}
        for row in waiting:
            kinds = {row.priority, URGENT} if row.deadline < np.inf else {row.priority}
            assert where[self._line(row)] in {(row.stage, row.shape, kind) for kind in kinds}
        assert all(self._line(row) == NOWHERE for row in self.live.values() if not row.waits)

    def _check_pick(self, batch: Batch, waiting: list[Row], lines: dict[int, int]) -> None:
        """One line; all rows that should be, or less for deadlines; shadow rows last."""
        rows = [self.live[name] for name in [*batch.ids.tolist(), *batch.late.tolist()]]
        (line,) = {lines[row.id] for row in rows}
        taken = self._taken(batch, list(lines.values()).count(line), len(set(lines.values())))
        fewest = min(taken, -(-batch.full // 2))
        took = self._costs.milliseconds(batch.stage, batch.shape, fewest)
        assert all(row.deadline - self.now < took for row in rows if row.id in batch.late)
        if len(rows) < taken:
            longer = self._costs.milliseconds(batch.stage, batch.shape, len(batch.ids) + 1)
            assert len(batch.ids) >= fewest
            assert longer > min(self.live[name].deadline - self.now for name in batch.ids.tolist())
        if any(row.priority is Priority.SHADOW and np.isinf(row.deadline) for row in rows):
            assert all(row.priority is Priority.SHADOW for row in waiting)

    def _taken(self, batch: Batch, rows: int, lines: int) -> int:
        """How many rows of a line the lane looks at: a full batch, or its share."""
        full = self._costs.full_batch(batch.shape)
        shadows = batch.priority == Priority.SHADOW
        assert batch.full == (max(1, full // SHADOW_PARTS) if shadows else full)
        if self._idle == 1 or lines > 1:
            return min(batch.full, rows)
        worthwhile = self._costs.worthwhile_batch(batch.shape)
        return min(batch.full, rows, max(worthwhile, -(-rows // self._idle)))
