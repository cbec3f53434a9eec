"""The scheduler: which stage runs next, and with which rows.

Pure: no threads, no ONNX, no clock of its own. The service, the tests and the simulator drive the
same code; all times are milliseconds on the caller's clock.

Rows wait in lines, one per priority, stage and carry shape; which line goes next, and how many of
its rows, is `service.rule`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np

from models.runtime import Piece
from service.costs import CostModel, Shape
from service.line import Block, Line, Lines
from service.request import Priority
from service.row_table import NOWHERE, RowTable
from service.rule import URGENT, Rule

Mode = Literal["rebatch", "compact", "monolith"]


@dataclass(frozen=True)
class Batch:
    """Rows of one stage for one lane.

    priority : of the line; see `service.rule`
    ids : int64 (b,), of the rows to run, in the order of the pieces
    slots : int64 (b,), of these rows, see `service.row_table`
    pieces : where their carries are
    full : rows of a full batch
    late : int64 (m,), rows that cannot be answered by this stage before their deadline: not run
    dated : some of the rows have a deadline
    """

    stage: int
    shape: Shape
    priority: int
    ids: np.ndarray
    slots: np.ndarray
    pieces: list[Piece]
    full: int
    late: np.ndarray
    dated: bool = False


class Scheduler:
    """Keeps the lines and chooses from them.

    Parameters
    ----------
    costs : measured times of the stages
    capacity : rows in the system at most
    lanes : how many run batches at the same time
    mode : `rebatch`; or `compact`: survivors go on as they are, to the end, without refill.
        `monolith` is `rebatch` over a runtime with one stage
    """

    def __init__(
        self, costs: CostModel, capacity: int, lanes: int = 1, mode: Mode = "rebatch"
    ) -> None:
        self.rows = RowTable(capacity)
        self._costs = costs
        self._lanes = lanes
        self._mode = mode
        self._lines = Lines(costs)
        self._rule = Rule(costs.stages)

    def enter(
        self,
        groups: Sequence[tuple[Shape, int, Any]],
        priority: Priority,
        deadline: float,
        now: float,
    ) -> list[np.ndarray]:
        """Take in rows at stage 1; there has to be room.

        Parameters
        ----------
        groups : shape, number of rows, and the carry that holds them
        deadline : infinite without one

        Returns
        -------
        ids, int64 (b,), per group
        """
        entered = []
        for shape, count, carry in groups:
            ids = self.rows.add(count, priority, deadline)
            dated = deadline < np.inf
            block = Block(ids, carry, np.arange(count), True, now, dated)
            self._join(block, priority, 1, shape, now)
            entered.append(ids)
        return entered

    def pick(self, now: float, idle: int = 1, shadows: bool = True) -> Batch | None:
        """The next batch for a free lane; None when no row waits. It may hold late rows only.

        idle : lanes that are free, this one included
        shadows : whether shadow rows may run
        """
        lines: Collection[Line] = self._lines.busy.values()
        if not shadows:
            lines = [line for line in lines if line.priority != Priority.SHADOW]
        line = self._rule.choose(lines, now)
        if line is None:
            return None
        count = line.full_batch
        if idle > 1 and len(self._lines.busy) == 1:
            worthwhile = self._costs.worthwhile_batch(line.shape)
            count = min(count, max(worthwhile, -(-line.rows // idle)))
        blocks = line.take(count, self.rows.present)
        self._lines.served(line)
        return self._formed(line, blocks, now)

    def go_on(
        self, batch: Batch, rows: np.ndarray, carry: Any, compacted: bool, now: float
    ) -> Batch | None:
        """Rows of a batch that stay go on to the next stage.

        Rows that leave are not touched: `remove` them when they are answered.

        Parameters
        ----------
        rows : int (m,), the places in the batch of those that stay, ascending; rows that were
            removed meanwhile are passed over
        carry : what the stage made of all rows of the batch
        compacted : the carry holds only the rows that stay

        Returns
        -------
        In `compact` mode the batch that the same lane runs next, if any.
        """
        ids = batch.ids[rows]
        places = np.arange(len(rows)) if compacted else rows
        whole = compacted or len(rows) == len(batch.ids)
        block = Block(ids, carry, places, whole, now, batch.dated)
        wanted = self.rows.present(ids)
        if not wanted.all():
            block = block.part(wanted)
        if not len(block.ids):
            return None
        if self._mode == "compact":
            return self._continued(batch, block, now)
        self._join(block, batch.priority, batch.stage + 1, batch.shape, now)
        return None

    def remove(self, ids: np.ndarray) -> None:
        """Rows are gone: answered, or not wanted any more. Those that are gone already are not."""
        ids = ids[self.rows.present(ids)]
        waits = self.rows.line[self.rows.slots(ids)]
        self.rows.remove(ids)
        for number, count in Counter(waits[waits != NOWHERE].tolist()).items():
            line = self._lines.numbered[number]
            line.give_up(count, self.rows.present)
            self._lines.served(line)

    def limit_batch(self, rows: int) -> None:
        """No batch holds more than `rows` rows from now on."""
        self._costs.limit(rows)
        self._lines.refresh()

    def lines(self) -> Collection[Line]:
        """Those in which rows wait."""
        return self._lines.busy.values()

    def wait(self, priority: int, stages: int | None = None) -> float:
        """Milliseconds of work that goes before a new row at worst, shared by the lanes.

        stages : count rows up to this stage only
        """
        deepest = self._costs.stages if stages is None else stages
        work = sum(
            line.rows * line.remaining
            for line in self._lines.busy.values()
            if line.priority <= priority and line.stage <= deepest
        )
        return work / self._lanes

    def _continued(self, batch: Batch, block: Block, now: float) -> Batch:
        stage, shape = batch.stage + 1, batch.shape
        left = self.rows.deadline[self.rows.slots(block.ids)] - now
        late = self._late(stage, shape, left, len(left))
        kept = block.part(~late) if late.any() else block
        pieces = [kept.piece] if len(kept.ids) else []
        slots, late_ids = self.rows.slots(kept.ids), block.ids[late]
        return Batch(
            stage,
            shape,
            batch.priority,
            kept.ids,
            slots,
            pieces,
            batch.full,
            late_ids,
            batch.dated,
        )

    def _join(self, block: Block, priority: int, stage: int, shape: Shape, now: float) -> None:
        """Rows join the line of their own priority; those with a deadline perhaps the urgent one.

        priority : of rows without a deadline, which are all alike
        """
        if not block.dated:
            self._append(block, self._lines.find(priority, stage, shape))
            return
        slots = self.rows.slots(block.ids)
        own = self.rows.priority[slots]
        run = self._costs.batch_time(stage, shape)
        ahead = np.array([self.wait(p) for p in range(Priority.SHADOW + 1)])[own]
        # in time only if nothing that goes before it takes longer than it should
        kinds = np.where(self.rows.deadline[slots] - now < ahead + 2 * run, URGENT, own)
        for kind in sorted(set(kinds.tolist())):
            mine = kinds == kind
            part = block if mine.all() else block.part(mine)
            self._append(part, self._lines.find(kind, stage, shape))

    def _append(self, block: Block, line: Line) -> None:
        self.rows.line[self.rows.slots(block.ids)] = line.number
        line.append(block)
        self._lines.busy[line.number] = line

    def _formed(self, line: Line, blocks: list[Block], now: float) -> Batch:
        ids = np.concatenate([block.ids for block in blocks])
        slots = self.rows.slots(ids)
        self.rows.line[slots] = NOWHERE
        dated = any(block.dated for block in blocks)
        late = ids[:0]
        if dated:
            is_late, runs = self._in_time(line, self.rows.deadline[slots] - now)
            late = ids[is_late]
            bounds = np.cumsum([0, *(len(block.ids) for block in blocks)]).tolist()
            spans = [slice(*span) for span in pairwise(bounds)]
            for block, span in reversed(list(zip(blocks, spans, strict=True))):
                self._put_back(line, block.part(~(is_late | runs)[span]))
            if not runs.all():
                blocks = [block.part(runs[span]) for block, span in zip(blocks, spans, strict=True)]
                ids, slots = ids[runs], slots[runs]
        pieces = [block.piece for block in blocks if len(block.ids)]
        stage, shape, priority, full = line.stage, line.shape, line.priority, line.full_batch
        return Batch(stage, shape, priority, ids, slots, pieces, full, late, dated)

    def _in_time(self, line: Line, left: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Which rows are late and which run now, by the milliseconds they have left: (b,) each."""
        late = self._late(line.stage, line.shape, left, -(-line.full_batch // 2))
        runs = ~late
        order = np.flatnonzero(runs)[np.argsort(left[runs], kind="stable")]
        count = len(order)
        fewest = min(count, -(-line.full_batch // 2))
        while count > fewest and (
            self._costs.milliseconds(line.stage, line.shape, count) > left[order[0]]
        ):
            count -= 1
        runs[order[count:]] = False
        return late, runs

    def _late(self, stage: int, shape: Shape, left: np.ndarray, fewest: int) -> np.ndarray:
        """The rows that must be given up so that the others are in time: bool (b,).

        left : milliseconds until the deadlines
        fewest : rows that run together if there are so many
        """
        order = np.argsort(left)
        late = 0
        while late < len(left):
            rows = min(len(left) - late, fewest, self._costs.max_batch_rows)
            if self._costs.milliseconds(stage, shape, rows) <= left[order[late]]:
                break
            late += 1
        mask = np.zeros(len(left), bool)
        mask[order[:late]] = True
        return mask

    def _put_back(self, line: Line, block: Block) -> None:
        if len(block.ids):
            self.rows.line[self.rows.slots(block.ids)] = line.number
            line.put_back(block)
            self._lines.busy[line.number] = line
