"""Sorting: the rows of a batch that ran leave, or go on to the next stage."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from models.runtime import Answers, Runtime
from service.admission import Admission
from service.batch_run import Part
from service.desk import Desk
from service.request import Left
from service.scheduler import Batch, Scheduler

COMPACTED = 0.5  # of a batch at most: then the rows that stay are copied, and the rest let go


@dataclass(frozen=True)
class Sorted:
    """Rows that ran, by who leaves: bool (b,), and who stays: int (m,).

    batch : holds these rows and no others
    carry : of the rows that stay, where it was compacted; else of all
    """

    batch: Batch
    answers: Answers
    leaves: np.ndarray
    stays: np.ndarray
    carry: Any
    compacted: bool


class Sorting:
    """Works for all lanes; `sort` needs no lock, the others the engine's.

    Parameters
    ----------
    clock : milliseconds
    """

    def __init__(
        self,
        runtime: Runtime,
        scheduler: Scheduler,
        admission: Admission,
        desk: Desk,
        clock: Callable[[], float],
    ) -> None:
        self._runtime = runtime
        self._scheduler = scheduler
        self._admission = admission
        self._desk = desk
        self._clock = clock

    def to_run(self, batch: Batch) -> Batch:
        """The rows of a batch that are to run; the others leave here."""
        if len(batch.late):
            late = batch.late[self._scheduler.rows.present(batch.late)]
            self._desk.depart_late(late, self._clock())
        if batch.stage > 1 and self._admission.shallow:
            self._depart_overloaded(batch.ids)
            return _some(batch, slice(0))
        return batch

    def sort(self, batch: Batch, part: Part) -> Sorted:
        """Who leaves, and who stays, of rows that ran together."""
        if len(part.rows) < len(batch.ids):
            batch = _some(batch, part.rows)
        leaves = self._desk.leaves(batch.stage, batch.slots, part.answers.score)
        stays = np.flatnonzero(~leaves)
        compacted = 0 < len(stays) <= COMPACTED * len(leaves)
        carry = self._runtime.gather([(part.carry, stays)]) if compacted else part.carry
        return Sorted(batch, part.answers, leaves, stays, carry, compacted)

    def settle(self, part: Sorted) -> list[Batch]:
        """Answer the rows that leave; the batches that the same lane runs next, in `compact`."""
        batch, answers, leaves = part.batch, part.answers, part.leaves
        ids, slots = batch.ids, batch.slots
        present = self._scheduler.rows.present(ids)
        if not present.all():
            ids, slots, answers = ids[present], slots[present], answers.take(present)
            leaves = leaves[present]
        self._desk.record(batch.stage, slots, answers)
        self._admission.saw(batch.stage, len(ids))
        now = self._clock()
        self._desk.depart(slots[leaves], Left.POLICY, now)
        if not len(part.stays):
            return []
        if self._admission.shallow:
            self._depart_overloaded(batch.ids[part.stays])
            return []
        following = self._scheduler.go_on(batch, part.stays, part.carry, part.compacted, now)
        following = following and self.to_run(following)
        return [following] if following is not None and len(following.ids) else []

    def _depart_overloaded(self, ids: np.ndarray) -> None:
        rows = self._scheduler.rows
        slots = rows.slots(ids[rows.present(ids)])
        self._desk.depart(slots, Left.OVERLOAD, self._clock())


def _some(batch: Batch, rows: slice | np.ndarray) -> Batch:
    """Some rows of a batch that ran, or that does not need to."""
    return replace(batch, ids=batch.ids[rows], slots=batch.slots[rows])
