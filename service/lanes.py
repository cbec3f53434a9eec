"""Lanes: threads that take batches from the scheduler, run them, and bring rows to their exits."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from time import perf_counter
from typing import Any

import numpy as np

from models.cuda_runtime import is_out_of_memory
from models.errors import DeadlineExceeded, InvalidInput, OfframpError, Overloaded, Unavailable
from models.runtime import Carry, Runtime
from service.admission import Admission
from service.batch_run import run_batch
from service.costs import CostModel
from service.desk import Desk
from service.engine_options import EngineOptions
from service.log_lines import named_logger
from service.model_metrics import ModelMetrics, StageQueue, StageRun
from service.request import Job, Priority
from service.run_clock import RunClock
from service.scheduler import Batch, Scheduler
from service.sorting import Sorting
from service.ticket import Mailbox, Ticket

logger = named_logger("bentoml.offramp")

SWITCH_SECONDS = 0.0005  # a lane that has its batch back waits at most so long for the interpreter
STOPPING = "the service is stopping: send the request to another instance"


def clock() -> float:
    """Milliseconds."""
    return perf_counter() * 1000


class Lanes:
    """All of it is behind one lock, which is never held while a stage runs.

    Parameters
    ----------
    runtime : shared by all lanes
    probe : the model's inputs for one row that is known to run; tells a broken lane from bad rows
    """

    def __init__(
        self,
        runtime: Runtime,
        costs: CostModel,
        metrics: ModelMetrics,
        probe: Carry,
        labels: int,
        options: EngineOptions,
    ) -> None:
        self.on_broken: Callable[[str], None] = lambda reason: None
        self._runtime = runtime
        self._costs = costs
        self._metrics = metrics
        self._probe = probe
        self._scheduler = Scheduler(costs, options.capacity, options.lanes, options.mode)
        self._admission = Admission(self._scheduler, costs, options.max_wait, options.overload)
        self._desk = Desk(self._scheduler, costs, runtime.exits, labels)
        self._sorting = Sorting(runtime, self._scheduler, self._admission, self._desk, clock)
        self._work = threading.Condition()
        self._idle = 0
        self._in_shadow: set[int] = set()  # lanes
        self._closing = False
        self._broken: str | None = None
        self._runs = RunClock(options.lanes)
        metrics.watch(self._queues)
        # by default 5 ms, longer than a small model takes: its p99 at half load was 83 ms, not 11
        sys.setswitchinterval(min(SWITCH_SECONDS, sys.getswitchinterval()))
        self._threads = [
            threading.Thread(target=self._lane, args=(number,), name=f"lane-{number}", daemon=True)
            for number in range(options.lanes)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def broken(self) -> str | None:
        """Why nothing can be answered any more; None while it can."""
        stuck = self._runs.stuck(clock())
        if stuck is not None:
            self._break(f"lane {stuck} is stuck in one run of a stage")
        return self._broken

    def enter(self, mailbox: Mailbox, job: Job, streams: bool) -> Ticket:
        """Admit the rows of a job; see `service.engine.Engine.run` for what it raises."""
        shapes = [tuple(tensor.shape[1:] for tensor in group.tensors) for group in job.groups]
        sizes = [(shape, len(group.rows)) for shape, group in zip(shapes, job.groups, strict=True)]
        with self._work:
            now = clock()
            self._refuse(job, sizes, now)
            carries = [group.tensors for group in job.groups]
            groups = [(*size, carry) for size, carry in zip(sizes, carries, strict=True)]
            entered = self._scheduler.enter(groups, job.priority, job.deadline, now)
            ids = np.empty(job.rows, np.int64)
            for group, its_ids in zip(job.groups, entered, strict=True):
                ids[group.rows] = its_ids
            ticket = self._desk.open(mailbox, job, streams, ids, now)
            self._wake(now)
            return ticket

    def expire(self, ticket: Ticket) -> None:
        """The deadline of a request is there."""
        with self._settled():
            self._desk.expire(ticket, clock())

    def cancel(self, ticket: Ticket) -> None:
        """Nobody waits for the request any more."""
        if ticket.number not in self._desk.tickets:
            return  # it is answered, as most are: no need to stop the lanes for that
        with self._work:
            given_up = self._desk.cancel(ticket)
        for exit_number, rows in given_up.items():
            self._metrics.cancelled(exit_number, rows)

    def close(self) -> None:
        """Refuse new rows, answer the admitted ones, end the threads."""
        with self._work:
            self._closing = True
            self._work.notify_all()
        for thread in self._threads:
            if not self._broken:
                thread.join()
        self._metrics.unwatch(self._queues)

    def _refuse(self, job: Job, sizes: Sequence[tuple[Any, int]], now: float) -> None:
        if self._closing or self._broken:
            self._metrics.refused("stopping", job.rows)
            raise Unavailable(self._broken or STOPPING)
        try:
            self._admission.check(sizes, job.priority, job.deadline, now)
        except (Overloaded, DeadlineExceeded) as error:
            cause = error.cause if isinstance(error, Overloaded) else DeadlineExceeded.reason
            if job.priority != Priority.SHADOW:
                self._metrics.refused(cause, job.rows)
            raise

    def _lane(self, number: int) -> None:
        try:
            while (batch := self._next(number)) is not None:
                todo = [batch]
                while todo:
                    todo += self._run(number, todo.pop())
        except BaseException as error:
            # whatever it is, rows would wait for this lane for ever
            self._break(f"lane {number} died: {error!r}")

    def _next(self, number: int) -> Batch | None:
        """Wait for rows; None when the lane is to end."""
        while True:
            with self._settled():
                batch = self._take(number)
            if batch is None or len(batch.ids):
                return batch

    def _take(self, number: int) -> Batch | None:
        self._in_shadow.discard(number)
        self._idle += 1
        try:
            while (batch := self._pick()) is None:
                if self._broken or (self._closing and not self._desk.tickets):
                    return None
                self._work.wait()
        finally:
            self._idle -= 1
        if batch.priority == Priority.SHADOW:
            self._in_shadow.add(number)
        if self._scheduler.lines():
            self._wake(clock())
        return self._sorting.to_run(batch)

    def _pick(self) -> Batch | None:
        """One lane at most runs shadow rows: who comes meanwhile finds the others."""
        return self._scheduler.pick(clock(), self._idle, shadows=not self._in_shadow)

    def _wake(self, now: float) -> None:
        """Wake a lane for the rows that wait, unless another is about to be free for them."""
        if self._idle and not self._runs.soon_free(now):
            self._work.notify()

    def _run(self, number: int, batch: Batch) -> list[Batch]:
        """Run a batch; what the same lane is to run next, in `compact` mode."""
        count = len(batch.ids)
        begun = clock()
        self._runs.begin(number, begun, self._expected(batch))
        run = run_batch(self._runtime, batch.stage, batch.pieces, count)
        ended = clock()
        milliseconds = ended - begun
        self._runs.end(number)
        if run.failed and not run.parts:
            self._runtime.run(1, self._probe)  # raises when the lane is at fault, not the rows
        sorted_parts = [self._sorting.sort(batch, part) for part in run.parts]
        following = []
        with self._settled():
            if run.out_of_memory:
                self._scheduler.limit_batch(count // 2)
            self._desk.ran(batch.stage, batch.ids, begun, ended)
            for row, error in run.failed.items():
                self._fail_row(batch.ids[row : row + 1], error)
            for part in sorted_parts:
                following += self._sorting.settle(part)
        for part in sorted_parts:
            share = milliseconds * len(part.leaves) / count
            exit_number, score = self._runtime.exits[batch.stage - 1], part.answers.score
            self._metrics.ran(StageRun(exit_number, len(part.leaves), batch.full, share, score))
        return following

    def _fail_row(self, row: np.ndarray, error: Exception) -> None:
        found = self._desk.ticket_of(row)
        if found is None:
            return
        ticket, place = found
        logger.warning("event=row_failed row=%d error=%r%s", place, str(error), ticket.job.tags)
        failure: OfframpError = InvalidInput(
            f"rows: the model cannot compute row {place}; expected rows like those that it was "
            "trained on; the service's log has the details"
        )
        if is_out_of_memory(error):
            failure = Unavailable("the device has no memory left: send the request again, later")
        self._metrics.failed(failure.reason, self._desk.fail(ticket, failure))

    def _break(self, reason: str) -> None:
        with self._work:
            first = self._broken is None
            self._broken = self._broken or f"{reason}; the service has to be started again"
        if first:
            logger.error("event=engine_broken reason=%r", reason)
            self.on_broken(self._broken)
        with self._settled():
            for ticket in list(self._desk.tickets.values()):
                rows = self._desk.fail(ticket, Unavailable(self._broken))
                self._metrics.failed(Unavailable.reason, rows)
            self._work.notify_all()

    @contextmanager
    def _settled(self) -> Iterator[None]:
        """Hold the lock; hand over what became due, once it is free."""
        with self._work:
            yield
            if self._closing and not self._desk.tickets:
                self._work.notify_all()
            deliveries, departures, late = self._desk.drain()
        if late:
            self._metrics.failed(DeadlineExceeded.reason, late)
        for departure in departures:  # first, so that whoever has an answer finds it counted
            self._metrics.departed(departure)
        for ticket, delivery in deliveries:
            ticket.mailbox.post(ticket, delivery)

    def _expected(self, batch: Batch) -> float:
        rows = min(len(batch.ids), self._costs.max_batch_rows)
        return self._costs.milliseconds(batch.stage, batch.shape, rows)

    def _queues(self) -> list[StageQueue]:
        with self._work:
            now, exits = clock(), self._runtime.exits
            waiting = [(exits[line.stage - 1], line) for line in self._scheduler.lines()]
            return [
                StageQueue(
                    number,
                    sum(line.rows for k, line in waiting if k == number),
                    max(now - line.since for k, line in waiting if k == number),
                )
                for number in sorted({k for k, _ in waiting})
            ]
