"""The engine as requests see it: a job goes in, its rows' answers come out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from math import inf
from weakref import WeakKeyDictionary

from models.runtime import Carry, Runtime
from service.costs import CostModel
from service.engine_options import EngineOptions
from service.lanes import Lanes, clock
from service.model_metrics import ModelMetrics
from service.request import Job, Routed
from service.ticket import Mailbox, Ticket


class Engine:
    """Answers the rows of many requests together.

    Parameters
    ----------
    runtime : runs the stages
    costs : what they take
    probe : the model's inputs for one row that is known to run
    labels : L
    """

    def __init__(
        self,
        runtime: Runtime,
        costs: CostModel,
        metrics: ModelMetrics,
        probe: Carry,
        labels: int,
        options: EngineOptions | None = None,
    ) -> None:
        self.exits = runtime.exits
        self._mailboxes: WeakKeyDictionary[asyncio.AbstractEventLoop, Mailbox]
        self._mailboxes = WeakKeyDictionary()
        self._lanes = Lanes(runtime, costs, metrics, probe, labels, options or EngineOptions())

    @property
    def broken(self) -> str | None:
        """Why the engine can answer nothing any more; None while it can."""
        return self._lanes.broken

    @property
    def on_broken(self) -> Callable[[str], None]:
        """Called with the reason, from a lane's thread, when the engine breaks."""
        return self._lanes.on_broken

    @on_broken.setter
    def on_broken(self, call: Callable[[str], None]) -> None:
        self._lanes.on_broken = call

    def clock(self) -> float:
        """Milliseconds; what deadlines are counted on."""
        return clock()

    async def run(self, job: Job) -> Routed:
        """Answer all rows, in their order. Cancelling it gives the rows up.

        Raises
        ------
        Overloaded
            When there is no room or no time for the rows, see `service.admission`.
        DeadlineExceeded
            When the deadline passes before every row has an answer.
        InvalidInput
            When the model cannot compute a row.
        Unavailable
            When the engine is closed or broken.
        """
        with self._ticket(job, streams=False) as ticket:
            return await ticket.next()

    async def stream(self, job: Job) -> AsyncGenerator[Routed, None]:
        """Answer rows as they leave; closing it gives the others up.

        Raises what `run` raises, after the rows that were answered before.
        """
        with self._ticket(job, streams=True) as ticket:
            waiting = job.rows
            while waiting:
                routed = await ticket.next()
                waiting -= len(routed.rows)
                yield routed

    def close(self) -> None:
        """Refuse new requests, answer the admitted ones, stop the lanes."""
        self._lanes.close()

    @contextmanager
    def _ticket(self, job: Job, streams: bool) -> Iterator[Ticket]:
        loop = asyncio.get_running_loop()
        mailbox = self._mailboxes.setdefault(loop, Mailbox(loop))
        if job.deadline < inf:
            now = clock()
            ahead = mailbox.lag.ahead(max(0.0, job.deadline - now), now)
            job = replace(job, deadline=job.deadline - ahead)
        ticket = self._lanes.enter(mailbox, job, streams)
        timer = None
        if job.deadline < inf:
            left = max(0.0, job.deadline - clock()) / 1000
            timer = loop.call_later(left, self._expire, mailbox, ticket)
        try:
            yield ticket
        finally:
            if timer is not None:
                timer.cancel()
            self._lanes.cancel(ticket)

    def _expire(self, mailbox: Mailbox, ticket: Ticket) -> None:
        now = clock()
        mailbox.lag.saw(max(0.0, now - ticket.job.deadline), now)
        self._lanes.expire(ticket)
