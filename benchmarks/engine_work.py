"""The work of stages: what ran in a window of time, and what it costs at best on this machine."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np

from models.runtime import Answers, Carry, Piece, Runtime

Key = tuple[int, tuple[tuple[int, ...], ...]]
"""A stage, and the shapes of one row's tensors into it."""


@dataclass(frozen=True)
class Run:
    """One run of a stage, in seconds on `perf_counter`."""

    key: Key
    rows: int
    begun: float
    ended: float


@dataclass(frozen=True)
class Window:
    """A span of time, in seconds on `perf_counter`."""

    begun: float
    ended: float

    @property
    def seconds(self) -> float:
        """Its length."""
        return self.ended - self.begun


@dataclass(frozen=True)
class StageLoad:
    """Rows that a stage can be run on again and again.

    rows : of the carry
    share : of all rows that have this shape
    """

    key: Key
    rows: int
    carry: Any
    share: float


class Recorder:
    """A runtime that notes its runs.

    Attributes
    ----------
    entered : rows that have passed stage 1
    on_run : called after every run, from a lane's thread
    """

    def __init__(self, runtime: Runtime) -> None:
        self.exits = runtime.exits
        self.bare = runtime
        self.runs: list[Run] = []
        self.entered = 0
        self.on_run: Callable[[], object] | None = None
        self._running = 0
        self._lock = threading.Lock()

    @property
    def is_idle(self) -> bool:
        """Whether no stage runs now."""
        return self._running == 0

    def run(self, stage: int, carry: Any) -> tuple[Answers, Any]:
        """Run stage `stage`."""
        key = key_of(stage, carry)
        begun = perf_counter()
        with self._lock:
            self._running += 1
        try:
            answers, following = self.bare.run(stage, carry)
        finally:
            with self._lock:
                self._running -= 1
        self.runs.append(Run(key, len(answers), begun, perf_counter()))
        if stage == 1:
            with self._lock:
                self.entered += len(answers)
        if tell := self.on_run:
            with suppress(RuntimeError):  # the loop that listened is closed
                tell()
        return answers, following

    def gather(self, pieces: Sequence[Piece]) -> Any:
        """Join rows of several carries."""
        return self.bare.gather(pieces)

    def take(self) -> list[Run]:
        """The runs since the last time."""
        runs, self.runs = self.runs, []
        return runs


def key_of(stage: int, carry: Any) -> Key:
    """Carries on a device hold their tensors in a field, and tell shapes by a method."""
    shapes = []
    for tensor in getattr(carry, "tensors", carry):
        shape = tensor.shape() if callable(tensor.shape) else tensor.shape
        shapes.append(tuple(shape)[1:])
    return stage, tuple(shapes)


def stage_loads(
    runtime: Runtime, inputs: Carry, sizes: Sequence[int], share: float = 1.0
) -> list[StageLoad]:
    """A load for every stage, of `sizes[stage - 1]` rows, all of the shape of `inputs`.

    Parameters
    ----------
    inputs : tensors (n, ...), the model's, repeated where there are too few
    """
    most = max(sizes)
    carry: Any = tuple(np.resize(tensor, (most, *tensor.shape[1:])) for tensor in inputs)
    loads = []
    for stage, rows in enumerate(sizes, start=1):
        own = runtime.gather([(carry, np.arange(rows))])
        loads.append(StageLoad(key_of(stage, own), rows, own, share))
        _, carry = runtime.run(stage, carry)
    return loads


def seconds_per_row(runtime: Runtime, load: StageLoad, lanes: int, seconds: float) -> float:
    """What a row of this load takes of the machine, all lanes running it at the same time."""
    runtime.run(load.key[0], load.carry)  # the first run is slower
    rates = [0.0] * lanes
    ready = threading.Barrier(lanes)

    def work(lane: int) -> None:
        ready.wait()
        begun, runs = perf_counter(), 0
        while not runs or perf_counter() < begun + seconds:
            runtime.run(load.key[0], load.carry)
            runs += 1
        rates[lane] = runs * load.rows / (perf_counter() - begun)

    threads = [threading.Thread(target=work, args=(lane,)) for lane in range(lanes)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return 1 / sum(rates)


def work_in(window: Window, runs: Iterable[Run], costs: Mapping[Key, float]) -> float:
    """Seconds that the rows that ran in a window take at best; runs count by their share in it.

    costs : seconds per row
    """
    total = 0.0
    for run in runs:
        inside = min(run.ended, window.ended) - max(run.begun, window.begun)
        if inside > 0:
            total += inside / (run.ended - run.begun) * run.rows * costs[run.key]
    return total


def fill_of(window: Window, runs: Iterable[Run], full: Mapping[Key, int]) -> float:
    """Rows of the batches that began in a window, as a share of those of full batches."""
    begun = [run for run in runs if window.begun <= run.begun < window.ended]
    batches = sum(full[run.key] for run in begun)
    return sum(run.rows for run in begun) / batches if batches else float("nan")
