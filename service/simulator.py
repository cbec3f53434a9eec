"""The simulator: the service's own scheduler and admission, on a virtual clock.

A lane takes for a batch what the cost model says. What is left out: the network, encoding inputs
and answers, and whatever else may slow a machine down.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import count
from math import inf

import numpy as np

from models.errors import InvalidInput, OfframpError
from service.admission import Admission
from service.costs import CostModel
from service.request import Priority
from service.scheduler import Batch, Mode, Scheduler
from service.simulated_load import Arrivals
from service.simulated_outcome import Outcome, Runs
from service.simulated_rows import SimulatedRows

REPORT_EVERY = 1024  # requests


@dataclass(frozen=True)
class Bounds:
    """The service's limits, as in its settings.

    Raises InvalidInput where nothing could ever be answered within them.

    max_queue_rows : rows admitted and not yet answered
    max_wait : milliseconds that a new row may have to wait at worst
    deadline : milliseconds from a request's arrival; infinite without one
    """

    max_queue_rows: int = 4096
    max_wait: float = 30_000
    deadline: float = inf

    def __post_init__(self) -> None:
        if self.max_queue_rows < 1 or not self.max_wait > 0:
            raise InvalidInput(
                f"bounds: found {self.max_queue_rows} rows and {self.max_wait:g} ms, expected at "
                "least 1 row and a wait of more than zero"
            )
        if not self.deadline > 0:
            raise InvalidInput(f"deadline: found {self.deadline:g} ms, expected more than zero")


DEFAULT_BOUNDS = Bounds()


def ignore(rows: int) -> None:
    """Nobody wants to know how many rows have arrived."""


def simulate(
    arrivals: Arrivals,
    costs: CostModel,
    lanes: int,
    mode: Mode = "rebatch",
    bounds: Bounds = DEFAULT_BOUNDS,
    progress: Callable[[int], None] = ignore,
) -> Outcome:
    """Serve the arrivals, to the last answer.

    Parameters
    ----------
    costs : of the stages; for `monolith`, of the unsplit model as the only one
    progress : told from time to time how many rows have arrived

    Raises
    ------
    InvalidInput
        When there is no lane, no room for a request, or rows leave behind stages without costs.
    """
    if lanes < 1:
        raise InvalidInput(f"devices: found {lanes}, expected at least 1")
    if arrivals.sizes.max() > bounds.max_queue_rows:
        raise InvalidInput(
            f"bounds: found room for {bounds.max_queue_rows} rows, expected at least "
            f"{arrivals.sizes.max()}, the rows of the largest request"
        )
    if arrivals.exits.max() > costs.stages:
        raise InvalidInput(
            f"rows leave behind stage {arrivals.exits.max()}, but the costs are of {costs.stages} "
            "stages: give costs and shares of the same exits"
        )
    return _Run(arrivals, costs, lanes, mode, bounds).to_the_end(progress)


class _Run:
    """The state of one simulation."""

    def __init__(
        self, arrivals: Arrivals, costs: CostModel, lanes: int, mode: Mode, bounds: Bounds
    ) -> None:
        self._arrivals = arrivals
        self._costs = costs
        self._scheduler = Scheduler(costs, bounds.max_queue_rows, lanes, mode)
        self._admission = Admission(self._scheduler, costs, bounds.max_wait)
        self._rows = SimulatedRows(arrivals, self._scheduler)
        self._lanes = self._idle = lanes
        self._running: list[tuple[float, int, Batch]] = []  # by when they end
        self._numbers = count()
        self._runs: list[tuple[float, ...]] = []
        self._expiries = deque((arrivals.times + bounds.deadline).tolist())  # ascending
        self._expired = 0

    def to_the_end(self, progress: Callable[[int], None]) -> Outcome:
        deadlines = list(self._expiries)
        sizes, starts = self._arrivals.sizes.tolist(), self._arrivals.starts.tolist()
        for request, now in enumerate(self._arrivals.times.tolist()):
            if request % REPORT_EVERY == 0:
                progress(starts[request])
            self._advance(now)
            self._arrive(request, sizes[request], deadlines[request], now)
            self._serve(now)
        self._advance(inf)
        progress(self._arrivals.rows)
        return self._outcome()

    def _arrive(self, request: int, size: int, deadline: float, now: float) -> None:
        shape, priority = self._costs.base, Priority.INTERACTIVE
        try:
            self._admission.check([(shape, size)], priority, deadline, now)
        except OfframpError:
            self._rows.refuse(request)
        else:
            ids = self._scheduler.enter([(shape, size, None)], priority, deadline, now)
            self._rows.admit(request, ids[0])

    def _advance(self, time: float) -> None:
        """Let all batches end and all requests expire that do so until `time`."""
        while True:
            ends = self._running[0][0] if self._running else inf
            expires = self._expiries[0] if self._expiries else inf
            now = min(ends, expires)
            if now > time or now == inf:
                return
            if expires < ends:
                self._expiries.popleft()
                self._rows.expire(self._expired, now)
                self._expired += 1
            else:
                self._finish(heappop(self._running)[-1], now)
                self._serve(now)

    def _serve(self, now: float) -> None:
        """Give batches to idle lanes."""
        while self._idle:
            batch = self._scheduler.pick(now, self._idle)
            if batch is None:
                return
            self._start(batch, now)

    def _start(self, batch: Batch, now: float) -> None:
        """An idle lane runs the batch, unless all of its rows are late."""
        if len(batch.late):
            self._rows.give_up(batch.late, now)
        rows = len(batch.ids)
        if rows:
            self._idle -= 1
            milliseconds = self._costs.milliseconds(batch.stage, batch.shape, rows)
            self._runs.append((batch.stage, rows, batch.full, milliseconds))
            heappush(self._running, (now + milliseconds, next(self._numbers), batch))

    def _finish(self, batch: Batch, now: float) -> None:
        """Rows leave or go on; in `compact` mode the same lane runs the next batch."""
        self._idle += 1
        self._admission.saw(batch.stage, int(self._scheduler.rows.present(batch.ids).sum()))
        stays = np.flatnonzero(self._rows.ran(batch.ids, batch.stage, now))
        following = self._scheduler.go_on(batch, stays, None, False, now)
        if following is not None:
            self._start(following, now)

    def _outcome(self) -> Outcome:
        rows = self._rows
        stage, size, full, milliseconds = np.array(self._runs, float).reshape(-1, 4).T
        return Outcome(
            lanes=self._lanes,
            arrivals=self._arrivals,
            latency=rows.answered - self._arrivals.row_times,
            exits=rows.exits,
            refused=rows.refused,
            cut_short=rows.cut_short,
            runs=Runs(stage.astype(int), size.astype(int), full.astype(int), milliseconds),
        )
