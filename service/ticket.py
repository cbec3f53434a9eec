"""A ticket: one request in the engine, and the way its answers take to whoever waits for them."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress

import numpy as np

from models.errors import OfframpError
from models.runtime import Answers
from service.loop_lag import LoopLag
from service.request import Job, Routed

Delivery = Routed | OfframpError


class Ticket:
    """One request.

    Parameters
    ----------
    mailbox : of the event loop in which somebody waits
    number : by which rows know their request
    job : what was asked
    ids : int64 (b,), of the rows, by their place in the request
    streams : every row is delivered as it leaves, instead of all with the last one
    """

    def __init__(
        self, mailbox: Mailbox, number: int, job: Job, ids: np.ndarray, streams: bool
    ) -> None:
        self.mailbox = mailbox
        self.number = number
        self.job = job
        self.ids = ids
        self.streams = streams
        self.rows_on_their_way = len(ids)
        self.deliveries: asyncio.Queue[Delivery] = asyncio.Queue()
        self._passed: list[Answers] = []

    async def next(self) -> Routed:
        """Wait for the next delivery; an error is raised."""
        delivery = await self.deliveries.get()
        if isinstance(delivery, OfframpError):
            raise delivery
        return delivery

    def pass_exit(self, stage: int, places: np.ndarray, answers: Answers) -> None:
        """Keep what the exit behind `stage` says of the rows at these places of the request."""
        while len(self._passed) < stage:
            shape = (len(self.ids), answers.probabilities.shape[1])
            self._passed.append(
                Answers(
                    np.full(shape, np.nan, np.float32),
                    np.zeros(shape, bool),
                    np.full(len(self.ids), np.nan, np.float32),
                )
            )
        kept = self._passed[stage - 1]
        kept.probabilities[places] = answers.probabilities
        kept.labels[places] = answers.labels
        kept.score[places] = answers.score

    def passed(self, places: np.ndarray) -> tuple[Answers, ...]:
        """Every exit's answers for these rows, not a number behind the exit they left at."""
        return tuple(answers.take(places) for answers in self._passed)


class Mailbox:
    """Hands deliveries over to an event loop from any thread, waking it only when it sleeps.

    Attributes
    ----------
    lag : of the loop
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.lag = LoopLag()
        self._loop = loop
        self._due: deque[tuple[Ticket, Delivery]] = deque()
        self._is_called = False

    def post(self, ticket: Ticket, delivery: Delivery) -> None:
        """Deliver it in the loop's thread."""
        self._due.append((ticket, delivery))
        if not self._is_called:
            self._is_called = True
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                self._loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        self._is_called = False  # before looking: what is posted from now on calls again
        while self._due:
            ticket, delivery = self._due.popleft()
            ticket.deliveries.put_nowait(delivery)
