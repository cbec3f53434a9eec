"""Shadow runs: rows drawn before anybody knows their exits, run to the end beside their answers."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np

from models.encoding import Group
from models.errors import OfframpError
from models.runtime import Answers
from service.request import Job, Left, Priority, Routed

if TYPE_CHECKING:
    from service.engine import Engine

MOST_PENDING = 64
"""Rows drawn and not compared yet; while there are more, none are drawn."""

Compared = Callable[[np.ndarray, np.ndarray], None]
"""Takes the label sets of one row, as answered and at the last exit: bool (L,) each."""


@dataclass
class _Row:
    """A drawn row; `full` comes with the shadow run, and never where the row is `gone`."""

    early: np.ndarray | None = None
    full: np.ndarray | None = None
    gone: bool = False


class Shadow:
    """Draws rows, runs those that left early to the end, and hands them over as they were drawn.

    The order matters: were rows that ran on anyway handed over sooner than those that left early,
    then what comes next would tell something of its loss. All calls come from the event loop.

    Parameters
    ----------
    share : of rows that are drawn
    compared : called with every row whose answer and full answer are known
    skipped : called for every row that was drawn and is not compared
    """

    def __init__(
        self,
        share: float,
        compared: Compared,
        skipped: Callable[[], None],
        rng: np.random.Generator,
    ) -> None:
        self._share = share
        self._compared = compared
        self._skipped = skipped
        self._rng = rng
        self._rows: deque[_Row] = deque()
        self._tasks: set[asyncio.Task[None]] = set()

    def draw(self, rows: int) -> Drawn:
        """Draw of the rows of a request that has just come."""
        if not self._share or len(self._rows) > MOST_PENDING:
            return Drawn(self, {})
        places = np.flatnonzero(self._rng.random(rows) < self._share).tolist()
        drawn = {place: _Row() for place in places}
        self._rows.extend(drawn.values())
        return Drawn(self, drawn)

    def run(self, engine: Engine, job: Job, rows: dict[int, _Row]) -> None:
        """Run rows of a job, by their places, to the end."""
        task = asyncio.create_task(self._run(engine, _to_the_end(job, [*rows]), [*rows.values()]))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def settle(self) -> None:
        """Hand over what is known, up to the first row that is not."""
        while self._rows and ((row := self._rows[0]).gone or row.full is not None):
            self._rows.popleft()
            if row.early is None or row.full is None:
                self._skipped()
            else:
                self._compared(row.early, row.full)

    async def _run(self, engine: Engine, job: Job, rows: Sequence[_Row]) -> None:
        try:
            routed = await engine.run(job)
            for row, labels, left in zip(rows, routed.answers.labels, routed.left, strict=True):
                row.full = labels if left == Left.POLICY else None
        except OfframpError:
            pass  # no room, or the service is about to end: no row is worth a delay of others
        finally:
            for row in rows:
                row.gone = row.full is None
            self.settle()


class Drawn:
    """The rows drawn of one request, while it is answered.

    As a context: what was not answered when it ends is skipped.
    """

    def __init__(self, shadow: Shadow, waiting: dict[int, _Row]) -> None:
        self._shadow = shadow
        self._waiting = waiting

    def __enter__(self) -> Drawn:
        """The same."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Skip the rows that wait."""
        for row in self._waiting.values():
            row.gone = True
        if self._waiting:
            self._shadow.settle()

    def answered(self, engine: Engine, job: Job, routed: Routed) -> Answers | None:
        """Rows of the request were answered; those drawn run on.

        Returns
        -------
        The answers of the drawn rows that left as the policy says; None where there are none.
        """
        if not self._waiting:
            return None
        here = [k for k, place in enumerate(routed.rows.tolist()) if place in self._waiting]
        early: dict[int, _Row] = {}
        by_policy = []
        for k in here:
            place = int(routed.rows[k])
            row = self._waiting.pop(place)
            if routed.left[k] != Left.POLICY:
                row.gone = True
                continue
            by_policy.append(k)
            row.early = routed.answers.labels[k]
            if routed.exits[k] == engine.exits[-1]:
                row.full = row.early
            else:
                early[place] = row
        if early:
            self._shadow.run(engine, job, early)
        self._shadow.settle()
        return routed.answers.take(np.array(by_policy)) if by_policy else None


def _to_the_end(job: Job, places: Sequence[int]) -> Job:
    """Some rows of a job, in this order, at full depth and after all others."""
    groups = []
    for group in job.groups:
        rows = [(place, k) for place, k in enumerate(map(_index(group), places)) if k is not None]
        if rows:
            kept = np.array([k for _, k in rows])
            tensors = tuple(tensor[kept] for tensor in group.tensors)
            groups.append(Group(np.array([place for place, _ in rows]), tensors))
    thresholds = np.full(len(job.thresholds), np.inf, np.float32)
    thresholds[-1] = -np.inf
    return Job(groups, thresholds, Priority.SHADOW)


def _index(group: Group) -> Callable[[int], int | None]:
    return {place: k for k, place in enumerate(group.rows.tolist())}.get
