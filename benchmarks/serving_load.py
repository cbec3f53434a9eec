"""The load of one server through one door: clients that wait, and requests that do not."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import cycle
from time import perf_counter
from typing import Protocol

import grpc
import numpy as np
from engine_load import keep_times, poisson
from protocol_clients import INFER
from soak_http import HttpClient, Lost, NotTaken

SHARES = (50, 95, 99)
JSON = {"Content-Type": "application/json"}
TIMES = 5
"""That a request is sent, where its answer is what is wanted."""


class Door(Protocol):
    """A way into a server."""

    async def ask(self, request: bytes) -> bytes | None:
        """The answer; None where the server gives none."""

    async def close(self) -> None:
        """Close all connections."""


class JsonDoor:
    """POST of JSON, over connections that stay open."""

    def __init__(self, port: int, path: str) -> None:
        self._client, self._path = HttpClient(port), path

    async def ask(self, request: bytes) -> bytes | None:
        """The body of an answer with status 200."""
        with suppress(Lost, NotTaken):
            response = await self._client.post(self._path, JSON, request)
            return response.body if response.status == 200 else None
        return None

    async def close(self) -> None:
        """Close all connections."""
        await self._client.close()


class GrpcDoor:
    """ModelInfer of the Open Inference Protocol."""

    def __init__(self, port: int) -> None:
        self._channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}")
        self._infer = self._channel.unary_unary(INFER)  # without serializers: bytes as they are

    async def ask(self, request: bytes) -> bytes | None:
        """The message of an answer."""
        with suppress(grpc.RpcError):
            answer: bytes = await self._infer(request)
            return answer
        return None

    async def close(self) -> None:
        """Close the channel."""
        await self._channel.close()


async def answers(door: Door, requests: Sequence[bytes], clients: int) -> list[bytes]:
    """All answers, in the order of the requests; what is not answered is sent again.

    Raises
    ------
    RuntimeError
        When one is still missing.
    """
    found: list[bytes | None] = [None] * len(requests)

    async def client(left: Iterator[int]) -> None:
        for number in left:
            found[number] = await door.ask(requests[number])

    for _ in range(TIMES):
        left = iter([number for number, answer in enumerate(found) if answer is None])
        await asyncio.gather(*(client(left) for _ in range(clients)))
    whole = [answer for answer in found if answer is not None]
    if len(whole) < len(found):
        raise RuntimeError(f"found {len(whole)} answers, expected {len(found)}")
    return whole


@dataclass(frozen=True)
class Saturated:
    """What clients that wait were given.

    rate : answers per second
    share : of the requests that were answered
    total : answers, those before and after what counts as well
    """

    rate: float
    share: float
    total: int


async def saturated(
    door: Door, requests: Sequence[bytes], clients: int, warm: float, seconds: float
) -> Saturated:
    """Load a server by clients that send one request after another.

    In the end all wait for their last answers: a server may go on with what is given up.

    Parameters
    ----------
    warm : seconds before it counts
    """
    turn, counted, stopped = cycle(requests), [0, 0], asyncio.Event()

    async def client() -> None:
        while not stopped.is_set():
            answered = await door.ask(next(turn)) is not None
            counted[answered] += 1

    tasks = [asyncio.create_task(client()) for _ in range(clients)]
    await asyncio.sleep(warm)
    begun, before = perf_counter(), list(counted)
    await asyncio.sleep(seconds)
    failed, answered = (now - then for now, then in zip(counted, before, strict=True))
    spent = perf_counter() - begun
    stopped.set()
    await asyncio.gather(*tasks)
    return Saturated(answered / spent, answered / max(1, answered + failed), counted[True])


@dataclass(frozen=True)
class Latency:
    """Of one open loop.

    answered : share of the requests
    """

    p50: float
    p95: float
    p99: float
    answered: float

    @classmethod
    def of(cls, milliseconds: np.ndarray) -> Latency:
        """From times that are infinite where there was no answer."""
        p50, p95, p99 = np.percentile(milliseconds, SHARES, method="lower").tolist()
        return cls(p50, p95, p99, float(np.isfinite(milliseconds).mean()))


async def open_loop(
    door: Door, requests: Sequence[bytes], rate: float, seconds: float, seed: int
) -> np.ndarray:
    """Requests at random times, `rate` per second: milliseconds from when each was due, float (n,).

    Infinite where there was no answer.
    """
    times = poisson(rate, seconds, seed)
    milliseconds = np.full(len(times), np.inf)
    tasks: list[asyncio.Task[None]] = []

    async def ask(number: int) -> None:
        if await door.ask(requests[number % len(requests)]) is not None:
            milliseconds[number] = (perf_counter() - begun - times[number]) * 1000

    def start(first: int, behind: int) -> None:
        tasks.extend(asyncio.create_task(ask(number)) for number in range(first, behind))

    loop, begun = asyncio.get_running_loop(), perf_counter()
    await asyncio.to_thread(keep_times, times, begun, start, loop, threading.Event())
    await asyncio.gather(*tasks)
    return milliseconds
