"""The loads: clients that wait for their answers, and requests that do not wait for others."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import cycle

import numpy as np
from engine_load import poisson
from soak_check import mistake
from soak_client import Client, Outcome, Reply
from soak_mix import Asked, Door
from soak_oracle import Oracle

TOLD_SECONDS = 10.0
FIRST_RETRY_SECONDS, LAST_RETRY_SECONDS = 0.1, 1.0
TRIED_SECONDS = 60.0
EXAMPLES, LONGEST = 3, 500
AGAIN = (Outcome.NOT_TAKEN, Outcome.UNAVAILABLE, Outcome.LOST, Outcome.REFUSED)
"""What a client may send again: nothing was answered, and an inference changes nothing."""


@dataclass
class Tally:
    """What became of requests.

    counts : by door and outcome
    times : milliseconds by outcome, from when each was sent
    versions : answers by the version that they say
    examples : the first of every outcome but answers
    """

    counts: Counter[tuple[Door, Outcome]] = field(default_factory=Counter)
    times: dict[Outcome, list[float]] = field(default_factory=lambda: defaultdict(list))
    versions: Counter[str] = field(default_factory=Counter)
    rows: int = 0
    examples: list[str] = field(default_factory=list)

    def add(self, asked: Asked, reply: Reply, milliseconds: float) -> None:
        """Count one request."""
        self.counts[asked.door, reply.outcome] += 1
        self.times[reply.outcome].append(milliseconds)
        if reply.outcome == Outcome.ANSWERED:
            self.rows += len(asked.places)
            self.versions[reply.parts[0].version] += 1
        if reply.outcome != Outcome.ANSWERED and len(self.times[reply.outcome]) <= EXAMPLES:
            what = f"{reply.outcome}: {asked.door}, {asked.options}: {reply.words}"
            self.examples.append(what[:LONGEST])

    def of(self, *outcomes: Outcome) -> int:
        """How many had one of the outcomes."""
        return sum(number for (_, outcome), number in self.counts.items() if outcome in outcomes)

    @property
    def total(self) -> int:
        """All requests."""
        return self.counts.total()

    def percentiles(self, outcome: Outcome, *shares: float) -> list[float]:
        """Of the times, milliseconds; not a number without any."""
        taken = self.times[outcome]
        if not taken:
            return [float("nan")] * len(shares)
        return [float(x) for x in np.percentile(taken, shares)]

    def __str__(self) -> str:
        parts = [f"{self.of(outcome):,} {outcome}" for outcome in Outcome if self.of(outcome)]
        return ", ".join(parts) or "nothing yet"


@dataclass(frozen=True)
class Load:
    """Sends requests of a mix to one server, and checks the answers.

    oracles : by version
    """

    client: Client
    mix: Sequence[Asked]
    oracles: Mapping[str, Oracle]

    async def one(self, asked: Asked, tally: Tally) -> Outcome:
        """Send one request and count it."""
        sent = time.perf_counter()
        reply = self._checked(asked, await self.client.ask(asked))
        tally.add(asked, reply, (time.perf_counter() - sent) * 1000)
        return reply.outcome

    async def until_answered(self, asked: Asked, tally: Tally) -> None:
        """Send it again until it is answered, as a client does that retries, and count it once."""
        sent, pause = time.perf_counter(), FIRST_RETRY_SECONDS
        while True:
            reply = self._checked(asked, await self.client.ask(asked))
            spent = time.perf_counter() - sent
            if reply.outcome not in AGAIN or spent > TRIED_SECONDS:
                return tally.add(asked, reply, spent * 1000)
            # at random, so that those who wait do not all come together
            await asyncio.sleep(random.uniform(pause / 2, pause))
            pause = min(2 * pause, LAST_RETRY_SECONDS)

    async def closed(self, clients: int, seconds: float, tally: Tally) -> float:
        """So many clients, each with one request after another: answered requests per second."""
        turn, end = cycle(self.mix), time.perf_counter() + seconds
        before = tally.of(Outcome.ANSWERED)

        async def ask() -> None:
            while time.perf_counter() < end:
                await self.one(next(turn), tally)

        begun = time.perf_counter()
        await asyncio.gather(*(ask() for _ in range(clients)))
        return (tally.of(Outcome.ANSWERED) - before) / (time.perf_counter() - begun)

    async def open(
        self,
        rate: float,
        seconds: float,
        tally: Tally,
        seed: int = 0,
        stop: asyncio.Event | None = None,
        retry: bool = False,
    ) -> None:
        """Requests at random times, `rate` per second on average, and all their answers.

        Parameters
        ----------
        stop : once it is set, no more are sent
        retry : see `until_answered`
        """
        send = self.until_answered if retry else self.one
        turn, begun = cycle(self.mix), time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for due in poisson(rate, seconds, seed):
                # also when it is late: others are to run
                await asyncio.sleep(max(0.0, begun + due - time.perf_counter()))
                if stop and stop.is_set():
                    break
                group.create_task(send(next(turn), tally))

    def _checked(self, asked: Asked, reply: Reply) -> Reply:
        if reply.outcome != Outcome.ANSWERED:
            return reply
        wrong = mistake(asked, reply.parts, self.oracles)
        return Reply(Outcome.WRONG, reply.parts, wrong) if wrong else reply


@asynccontextmanager
async def told(
    name: str, tally: Tally, more: Callable[[], str] = lambda: ""
) -> AsyncIterator[None]:
    """Print a line every ten seconds, and one at the end."""
    begun = time.perf_counter()

    def line() -> None:
        print(f"{name}: {time.perf_counter() - begun:5.0f} s, {tally}{more()}", flush=True)

    async def go_on() -> None:
        while True:
            await asyncio.sleep(TOLD_SECONDS)
            line()

    telling = asyncio.create_task(go_on())
    try:
        yield
    finally:
        telling.cancel()
        line()
        for example in sorted(tally.examples):
            print(f"    {example}", flush=True)
