"""Streams of easy rows while hard ones, which leave nowhere early, are in the system."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial

import numpy as np
from engine_load import Stream, cancel, open_loop
from engine_work import Recorder

from service.engine import Engine
from service.request import Job, Routed

MOST_DRIPPED = 4  # times the hard rows wanted; then they leave as fast as they can come


class Standing:
    """Hard rows that wait past stage 1, however many leave.

    They come a few at a time, and only once those before have passed stage 1.

    Parameters
    ----------
    hard : requests of equally many rows, less than a full batch
    population : rows to be in the system
    """

    def __init__(
        self, engine: Engine, recorder: Recorder, hard: Sequence[Job], population: int
    ) -> None:
        self.easy_answered = 0  # rows that leave at exit 1
        self.counts: list[int] = []
        self._engine = engine
        self._recorder = recorder
        self._hard = hard
        self._wanted = population // hard[0].rows
        self._pending: set[asyncio.Task[Routed]] = set()
        self._ran = asyncio.Event()
        self._begun = recorder.entered
        self._sent = 0

    async def run(self, job: Job) -> Routed:
        """Answer an easy request."""
        routed = await self._engine.run(job)
        self.easy_answered += job.rows
        return routed

    async def build(self) -> None:
        """Send until they are as many as wanted, or leave as fast as they can come."""
        while len(self._pending) < self._wanted > self._sent / MOST_DRIPPED:
            await self._send()

    async def keep(self) -> None:
        """Replace those that leave."""
        while True:
            self.counts.append(len(self._pending) * self._hard[0].rows)
            if len(self._pending) < self._wanted:
                await self._send()
            else:
                await self._next_run()

    async def _send(self) -> None:
        task = asyncio.create_task(self._engine.run(self._hard[self._sent % len(self._hard)]))
        self._pending.add(task)
        task.add_done_callback(self._pending.discard)
        self._sent += 1
        due = self._begun + self._sent * self._hard[0].rows
        while self._recorder.entered - self.easy_answered < due:
            await self._next_run()

    async def _next_run(self) -> None:
        await self._ran.wait()
        self._ran.clear()

    @asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        """Hear of the runs; give up the hard rows at the end."""
        loop = asyncio.get_running_loop()
        self._recorder.on_run = partial(loop.call_soon_threadsafe, self._ran.set)
        try:
            yield
        finally:
            self._recorder.on_run = None
            await cancel(list(self._pending))


async def among_standing(
    engine: Engine,
    recorder: Recorder,
    easy: tuple[Sequence[Job], np.ndarray],
    hard: Sequence[Job],
    population: int,
) -> tuple[Stream, float]:
    """A stream of easy rows among hard rows that wait past stage 1, and how many of them did.

    easy : requests and times, see `open_loop`
    """
    standing = Standing(engine, recorder, hard, population)
    async with standing.watching():
        await standing.build()
        keeper = asyncio.create_task(standing.keep())
        stream = await open_loop(standing, *easy)
        await cancel([keeper])
    return stream, float(np.mean(standing.counts))


async def among_burst(
    engine: Engine, easy: tuple[Sequence[Job], np.ndarray], hard: Sequence[Job]
) -> Stream:
    """A stream of easy rows from the arrival of hard ones, all at once, until the last answer."""
    stop = threading.Event()
    burst = asyncio.gather(*(engine.run(job) for job in hard))
    burst.add_done_callback(lambda _: stop.set())
    stream, _ = await asyncio.gather(open_loop(engine, *easy, stop=stop), burst)
    return stream
