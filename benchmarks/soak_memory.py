"""The memory of a process while it works: samples, and a slope that single ones do not move."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import numpy as np
import psutil

MIB = 2**20
PER_SECONDS = 600.0
SETTLED = 1 / 3
"""Of the time, after which growth counts: caches and pools fill up before."""


@dataclass
class Memory:
    """Resident memory, a sample after the other.

    seconds : on a clock of its own
    mib : at that time
    """

    seconds: list[float] = field(default_factory=list)
    mib: list[float] = field(default_factory=list)

    @property
    def slope(self) -> float:
        """MiB in ten minutes, by Theil and Sen; not a number where samples are too few.

        The median of the slopes of all pairs of samples [1]. Up to 29 % of the samples may be
        anything.

        [1] Sen, "Estimates of the regression coefficient based on Kendall's tau", JASA 63, 1968.
        """
        times, values = np.array(self.seconds), np.array(self.mib)
        kept = times >= times[0] + SETTLED * (times[-1] - times[0]) if len(times) else []
        times, values = times[kept], values[kept]
        one, other = np.triu_indices(len(times), 1)
        if not len(one):
            return float("nan")
        slopes = (values[other] - values[one]) / (times[other] - times[one])
        return float(np.median(slopes)) * PER_SECONDS

    @property
    def last(self) -> float:
        """MiB."""
        return self.mib[-1] if self.mib else float("nan")


@asynccontextmanager
async def watched_memory(process: psutil.Process, every: float) -> AsyncIterator[Memory]:
    """Sample the memory of a process until the block ends; `every` in seconds."""
    memory = Memory()

    async def go_on() -> None:
        with suppress(psutil.NoSuchProcess):
            while True:
                memory.seconds.append(time.monotonic())
                memory.mib.append(process.memory_info().rss / MIB)
                await asyncio.sleep(every)

    watching = asyncio.create_task(go_on())
    try:
        yield memory
    finally:
        watching.cancel()
        await asyncio.wait((watching,))
