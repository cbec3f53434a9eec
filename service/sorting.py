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

    carry : of the rows that stay, where it was compacted; else of all
    """

    ids: np.ndarray
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
        rows, now = self._scheduler.rows, self._clock()
        self._desk.depart_late(batch.late[rows.present(batch.late)], now)
        if batch.stage > 1 and self._admission.shallow:
            self._desk.depart(batch.ids[rows.present(batch.ids)], Left.OVERLOAD, now)
            return replace(batch, ids=batch.ids[:0])
        return batch

    def sort(self, batch: Batch, part: Part) -> Sorted:
        """Who leaves, and who stays, of rows that ran together."""
        ids = batch.ids if len(part.rows) == len(batch.ids) else batch.ids[part.rows]
        leaves = self._desk.leaves(batch.stage, ids, part.answers.score)
        stays = np.flatnonzero(~leaves)
        compacted = 0 < len(stays) <= COMPACTED * len(ids)
        carry = self._runtime.gather([(part.carry, stays)]) if compacted else part.carry
        return Sorted(ids, part.answers, leaves, stays, carry, compacted)

    def settle(self, batch: Batch, part: Sorted) -> list[Batch]:
        """Answer the rows that leave; the batches that the same lane runs next, in `compact`."""
        now, rows = self._clock(), self._scheduler.rows
        here, answers, leaves = part.ids, part.answers, part.leaves
        present = rows.present(here)
        if not present.all():
            here, answers, leaves = here[present], answers.take(present), leaves[present]
        self._desk.record(batch.stage, here, answers)
        self._admission.saw(batch.stage, len(here))
        self._desk.depart(here[leaves], Left.POLICY, now)
        if not len(part.stays):
            return []
        if self._admission.shallow:
            staying = here[~leaves]
            self._desk.depart(staying[rows.present(staying)], Left.OVERLOAD, now)
            return []
        ran = replace(batch, ids=part.ids)
        following = self._scheduler.go_on(ran, part.stays, part.carry, part.compacted, now)
        following = following and self.to_run(following)
        return [following] if following is not None and len(following.ids) else []
