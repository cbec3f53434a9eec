"""Lines: rows of one priority and one shape wait for one stage, in the order in which they came."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from models.runtime import Piece
from service.costs import CostModel, Shape
from service.request import Priority

PATIENCE = 20  # in times of what a full batch takes through all stages
MOST_LINES = 4096  # clients choose shapes
SHADOW_PARTS = 4  # of a full batch, one of which is a full batch of shadow rows

Wanted = Callable[[np.ndarray], np.ndarray]
"""Which rows are still in the system: ids, int64 (b,) -> bool (b,)."""


@dataclass(frozen=True, slots=True)
class Block:
    """Rows that came to a line together, and the carry that holds them.

    ids : int64 (b,), of rows
    carry : opaque here
    places : int64 (b,), of the rows in the carry
    whole : the carry holds these rows, in this order, and no others
    since : milliseconds on the clock, when they came
    dated : some of the rows have a deadline
    """

    ids: np.ndarray
    carry: Any
    places: np.ndarray
    whole: bool
    since: float
    dated: bool = False

    def part(self, rows: slice | np.ndarray) -> Block:
        """Some of the rows."""
        return Block(self.ids[rows], self.carry, self.places[rows], False, self.since, self.dated)

    @property
    def piece(self) -> Piece:
        """What the runtime gathers."""
        return self.carry, None if self.whole else self.places


class Line:
    """Rows are taken from the front; those that were given up meanwhile are passed over.

    number : by which a row's line is remembered
    stage : 1..S
    shape : of the rows
    full_batch : rows of a full batch
    batch_time : milliseconds that it takes
    remaining : milliseconds that a row needs from here to the end at most, in full batches
    follow_up : milliseconds that the rows of a full batch may take in the stages behind this one
    patience : milliseconds after which a row has waited too long here
    """

    def __init__(
        self, number: int, priority: int, stage: int, shape: Shape, costs: CostModel
    ) -> None:
        self.number = number
        self.priority = priority
        self.stage = stage
        self.shape = shape
        self.rows = 0
        self._blocks: deque[Block] = deque()
        self._has_gaps = False  # rows that were given up stand among the others
        self.measure(costs)

    def measure(self, costs: CostModel) -> None:
        """Take in what the cost model says now."""
        stage, shape = self.stage, self.shape
        times = [costs.batch_time(k, shape) for k in range(1, costs.stages + 1)]
        self.full_batch = costs.full_batch(shape)
        if self.priority == Priority.SHADOW:  # whoever comes meanwhile is not to wait for long
            self.full_batch = max(1, self.full_batch // SHADOW_PARTS)
        self.batch_time = times[stage - 1]
        self.remaining = costs.remaining(stage, shape)
        self.follow_up = sum(times[stage:])
        self.patience = PATIENCE * sum(times)

    @property
    def is_full(self) -> bool:
        """Whether a full batch waits."""
        return self.rows >= self.full_batch

    @property
    def since(self) -> float:
        """When the first row came; infinite when the line is empty."""
        return self._blocks[0].since if self._blocks else float("inf")

    def append(self, block: Block) -> None:
        """Rows join at the end."""
        self._blocks.append(block)
        self.rows += len(block.ids)

    def put_back(self, block: Block) -> None:
        """Rows that were taken stand at the front again."""
        self._blocks.appendleft(block)
        self.rows += len(block.ids)

    def give_up(self, rows: int, wanted: Wanted) -> None:
        """So many of the waiting rows are not wanted any more."""
        self.rows -= rows
        self._has_gaps = True
        self._drop_gone(wanted)

    def take(self, count: int, wanted: Wanted) -> list[Block]:
        """Take the first `count` rows that are still wanted, or all there are.

        Blocks take turns: what is left of one that has filled a whole batch goes to the end.
        """
        taken: list[Block] = []
        left = count
        while left and self._blocks:
            block = self._blocks.popleft()
            if len(block.ids) > left:
                rest = block.part(slice(left, None))
                block = block.part(slice(left))
                self._blocks.append(rest) if left == count else self._blocks.appendleft(rest)
            if self._has_gaps:
                block = block.part(wanted(block.ids))
            if len(block.ids):
                taken.append(block)
                left -= len(block.ids)
        self.rows -= count - left
        self._drop_gone(wanted)
        return taken

    def _drop_gone(self, wanted: Wanted) -> None:
        while self._has_gaps and self._blocks and not wanted(self._blocks[0].ids).any():
            self._blocks.popleft()
        if not self.rows:
            self._blocks.clear()
            self._has_gaps = False


class Lines:
    """All lines, made when they are first needed.

    busy : those in which rows wait, by number
    numbered : all, by number
    """

    def __init__(self, costs: CostModel) -> None:
        self.busy: dict[int, Line] = {}
        self.numbered: dict[int, Line] = {}
        self._costs = costs
        self._lines: dict[tuple[int, int, Shape], Line] = {}
        self._last_number = 0

    def find(self, priority: int, stage: int, shape: Shape) -> Line:
        """The line of such rows."""
        key = (priority, stage, shape)
        if key not in self._lines:
            if len(self._lines) >= MOST_LINES:
                self._forget_idle()
            self._last_number += 1
            line = Line(self._last_number, priority, stage, shape, self._costs)
            self._lines[key] = self.numbered[line.number] = line
        return self._lines[key]

    def refresh(self) -> None:
        """The cost model has changed."""
        for line in self.numbered.values():
            line.measure(self._costs)

    def served(self, line: Line) -> None:
        """Rows of the line were taken or given up."""
        if not line.rows:
            self.busy.pop(line.number, None)

    def _forget_idle(self) -> None:
        self._lines = {key: line for key, line in self._lines.items() if line.rows}
        self.numbered = {line.number: line for line in self._lines.values()}
