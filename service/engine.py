"""Runs admitted rows through the stages; each row stops at its own exit."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from time import perf_counter

import numpy as np

from models.errors import Cancelled, Overloaded, Unavailable
from models.policy import Policy
from models.runtime import Answers, Carry, StageRuntime
from service.metrics import Metrics


@dataclass(frozen=True)
class Routed:
    """Rows answered, each at its own exit.

    answers : over b rows
    exits : int (b,) in 1..K
    """

    answers: Answers
    exits: np.ndarray


class Engine:
    """Lanes take whole requests in order and run them stage by stage, dropping rows that left.

    Parameters
    ----------
    runtime : shared by all lanes
    lanes : threads that run stages
    max_queue_rows : rows admitted and not yet answered; a request beyond them is refused at once
    """

    def __init__(
        self, runtime: StageRuntime, metrics: Metrics, lanes: int, max_queue_rows: int
    ) -> None:
        self._runtime = runtime
        self._metrics = metrics
        self._lanes = ThreadPoolExecutor(lanes, thread_name_prefix="lane")
        self._max_queue_rows = max_queue_rows
        self._queue_rows = 0
        self._lock = threading.Lock()
        self._open = True

    async def run(self, inputs: Carry, policy: Policy) -> Routed:
        """Answer b rows: the model's inputs, (b, ...) each.

        Raises
        ------
        Overloaded
            When the queue has no room for the rows.
        Unavailable
            When the engine is closed.
        """
        rows = len(inputs[0])
        self._admit(rows)
        abandoned = threading.Event()
        future = self._lanes.submit(self._run_stages, inputs, policy, abandoned)
        # the rows stay counted until a lane is done with them, whether anybody still waits or not
        future.add_done_callback(lambda _: self._count_queue(-rows))
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            abandoned.set()
            raise

    def close(self) -> None:
        """Refuse new rows, finish the admitted ones, stop the lanes."""
        self._open = False
        self._lanes.shutdown(wait=True)

    def _admit(self, rows: int) -> None:
        if not self._open:
            raise Unavailable("the service is stopping: send the request to another instance")
        if self._queue_rows + rows > self._max_queue_rows:
            raise Overloaded(
                f"the queue is full: {self._queue_rows} of {self._max_queue_rows} rows are "
                f"waiting and the request "
                f"brings {rows}; try again later"
            )
        self._count_queue(rows)

    def _count_queue(self, rows: int) -> None:
        with self._lock:
            self._queue_rows += rows
            self._metrics.queue_rows.set(self._queue_rows)

    def _run_stages(self, carry: Carry, policy: Policy, abandoned: threading.Event) -> Routed:
        waiting = np.arange(len(carry[0]))  # rows still on their way, as indices into the request
        left: list[tuple[int, np.ndarray, Answers]] = []
        for stage in range(1, self._runtime.depth + 1):
            if abandoned.is_set():
                raise Cancelled(f"the client went away before stage {stage}")
            start = perf_counter()
            answers, carry = self._runtime.run(stage, carry)
            self._metrics.stage_seconds.labels(str(stage)).observe(perf_counter() - start)
            leaves = policy.leaves(stage, answers.score)
            if leaves.any():
                left.append((stage, waiting[leaves], answers.take(leaves)))
            if leaves.all():
                break
            waiting = waiting[~leaves]
            carry = tuple(tensor[~leaves] for tensor in carry)
        return _in_request_order(left)


def _in_request_order(left: list[tuple[int, np.ndarray, Answers]]) -> Routed:
    """Join the rows that left at each exit, back in the order in which they came."""
    parts = [(rows, Routed(answers, np.full(len(rows), k))) for k, rows, answers in left]
    return join_rows(parts)


def join_rows(parts: Sequence[tuple[np.ndarray, Routed]]) -> Routed:
    """Rows answered apart, back in the order of the request.

    parts : places of some rows in the request, int (b,), and their answers; every place once
    """
    order = np.argsort(np.concatenate([rows for rows, _ in parts]))
    joined = Answers.concatenate([routed.answers for _, routed in parts])
    exits = np.concatenate([routed.exits for _, routed in parts])
    return Routed(joined.take(order), exits[order])
