"""The loads of the engine benchmark: clients that wait for their answers, and streams that do not.

Everything runs in the process of the engine, as the service's own event loop does.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from itertools import cycle
from time import perf_counter, sleep
from typing import Any, Protocol

import numpy as np
from engine_work import Recorder, Run, Window

from service.engine import Engine
from service.request import Job, Routed

SETTLED = 0.02  # seconds without a run after which the lanes are done
POLL = 0.0005  # seconds


class Answering(Protocol):
    """What answers requests."""

    async def run(self, job: Job) -> Routed:
        """Answer all rows."""
        ...


@dataclass(frozen=True)
class Stream:
    """Single-row requests that came at their times, whatever became of those before.

    latency : float (n,), milliseconds from the scheduled arrival to the answer
    lateness : float (n,), milliseconds from the scheduled arrival until it was sent
    """

    latency: np.ndarray
    lateness: np.ndarray

    def percentiles(self, *shares: float) -> list[float]:
        """Of the latency; not a number without rows."""
        if not len(self.latency):
            return [float("nan")] * len(shares)
        return [float(x) for x in np.percentile(self.latency, shares)]


def poisson(rate: float, seconds: float, seed: int) -> np.ndarray:
    """Arrival times in seconds, float (n,), of `rate` per second on average."""
    rng = np.random.default_rng(seed)
    gaps = rng.exponential(1 / rate, int(rate * seconds * 1.5) + 50)
    times = np.cumsum(gaps)
    return times[times < seconds]


async def saturate(
    engine: Engine, jobs: Sequence[Job], clients: int, warm: float, seconds: float
) -> Window:
    """Run `clients` tasks, each sending one request after another.

    warm : seconds before the window begins
    """
    turn = cycle(jobs)

    async def client() -> None:
        while True:
            await engine.run(next(turn))

    tasks = [asyncio.create_task(client()) for _ in range(clients)]
    await asyncio.sleep(warm)
    begun = perf_counter()
    await asyncio.sleep(seconds)
    window = Window(begun, perf_counter())
    await cancel(tasks)
    return window


async def answered_per_second(
    answer: Callable[[Any], Awaitable[object]],
    requests: Sequence[Any],
    clients: int,
    warm: float,
    seconds: float,
) -> float:
    """Requests per second of `clients` tasks, each sending one after another.

    warm : seconds before it counts
    """
    turn, answered = cycle(requests), 0

    async def client() -> None:
        nonlocal answered
        while True:
            await answer(next(turn))
            answered += 1

    tasks = [asyncio.create_task(client()) for _ in range(clients)]
    await asyncio.sleep(warm)
    before, begun = answered, perf_counter()
    await asyncio.sleep(seconds)
    rate = (answered - before) / (perf_counter() - begun)
    await cancel(tasks)
    return rate


async def answer_all(engine: Engine, jobs: Sequence[Job], clients: int, rows: int) -> None:
    """Answer `rows` rows or a few more, by clients that send one request after another."""
    turn, left = cycle(jobs), rows

    async def client() -> None:
        nonlocal left
        while left > 0:
            job = next(turn)
            left -= job.rows
            await engine.run(job)

    await asyncio.gather(*(client() for _ in range(clients)))


async def open_loop(
    engine: Answering,
    jobs: Sequence[Job],
    times: np.ndarray,
    warm: float = 0.0,
    stop: threading.Event | None = None,
) -> Stream:
    """Send single-row requests at their times and wait for all answers.

    A thread keeps the times, as the event loop's timers are a millisecond coarse.

    Parameters
    ----------
    times : seconds from now
    warm : requests that are scheduled earlier are not reported
    stop : once it is set, no more are sent
    """
    loop, stop = asyncio.get_running_loop(), stop or threading.Event()
    sent, done = np.full((2, len(times)), np.nan)
    tasks: list[asyncio.Task[None]] = []

    async def ask(number: int) -> None:
        sent[number] = perf_counter()
        await engine.run(jobs[number % len(jobs)])
        done[number] = perf_counter()

    def start(first: int, behind: int) -> None:
        tasks.extend(asyncio.create_task(ask(number)) for number in range(first, behind))

    begun = perf_counter()
    await asyncio.to_thread(keep_times, times, begun, start, loop, stop)
    await asyncio.gather(*tasks)
    due = begun + times
    told = (times >= warm) & np.isfinite(done)
    return Stream(((done - due) * 1000)[told], ((sent - due) * 1000)[told])


def settle(recorder: Recorder) -> list[Run]:
    """Wait until the lanes are done with what was given up; all runs since the last time."""
    quiet = perf_counter()
    while perf_counter() - quiet < SETTLED:
        if not recorder.is_idle:
            quiet = perf_counter()
        sleep(POLL)
    return recorder.take()


async def cancel(tasks: Sequence[asyncio.Task[Any]]) -> None:
    """Give tasks up; what one of them raised before is raised."""
    for task in tasks:
        task.cancel()
    for outcome in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(outcome, Exception):
            raise outcome


def keep_times(
    times: np.ndarray,
    begun: float,
    start: Callable[[int, int], None],
    loop: asyncio.AbstractEventLoop,
    stop: threading.Event,
) -> None:
    """Have the loop call `start(first, behind)` when arrivals `first` to `behind` - 1 are due.

    For a thread of its own.

    Parameters
    ----------
    times : seconds after `begun`, ascending
    """
    sent = 0
    while sent < len(times) and not stop.is_set():
        now = perf_counter() - begun
        due = int(np.searchsorted(times, now, side="right"))
        if due > sent:
            loop.call_soon_threadsafe(start, sent, due)
            sent = due
        else:
            sleep(times[sent] - now)
