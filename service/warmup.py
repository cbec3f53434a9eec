"""Warm-up: opens the stages, measures them on this machine, and chooses the lanes."""

from __future__ import annotations

import threading
from collections.abc import Callable
from time import perf_counter
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np

from models.encoding import blank_rows
from models.machine import available_cores
from models.runtime import Carry, Runtime, StageRuntime
from service.costs import CostModel
from service.engine import Engine
from service.engine_options import EngineOptions

if TYPE_CHECKING:
    from models.bundle import Bundle
    from service.admission import Overload
    from service.metrics import Metrics
    from service.scheduler import Mode

ROUNDS = 5
SECONDS = 3.0  # after which no larger batch is measured
SLOWEST_RUN = 0.5  # seconds; larger batches would make other rows wait too long
LANE_SECONDS = 0.4  # of measuring one choice of lanes
DISPATCH_MS = 0.15  # of a batch beside its stage: picking, gathering, answering


class Settings(Protocol):
    """What the engine needs to know, see `service.settings.Settings`."""

    @property
    def device(self) -> Literal["cpu", "cuda", "tensorrt"]: ...  # noqa: D102
    @property
    def lanes(self) -> int | Literal["auto"]: ...  # noqa: D102
    @property
    def threads(self) -> int: ...  # noqa: D102
    @property
    def mode(self) -> Mode: ...  # noqa: D102
    @property
    def overload(self) -> Overload: ...  # noqa: D102
    @property
    def max_wait_ms(self) -> float: ...  # noqa: D102
    @property
    def max_batch_rows(self) -> int: ...  # noqa: D102
    @property
    def max_queue_rows(self) -> int: ...  # noqa: D102


def open_engine(bundle: Bundle, settings: Settings, metrics: Metrics) -> Engine:
    """Load a bundle, warm it up and start its lanes; takes seconds.

    Raises
    ------
    SettingsError
        When the device that was asked for is not there.
    """
    manifest = bundle.manifest
    exits = (manifest.depth,) if settings.mode == "monolith" else None

    def open_runtime(threads: int) -> Runtime:
        if settings.device == "cpu":
            return StageRuntime(bundle.model, manifest.carries, threads, exits)
        from models.cuda_runtime import CudaRuntime

        return CudaRuntime(bundle.model, manifest.carries, exits, provider=settings.device)

    probe = blank_rows(manifest.inputs)
    if settings.device == "cpu":
        lanes, runtime = choose_lanes(
            open_runtime, probe, settings.lanes, settings.threads, settings.max_batch_rows
        )
    else:
        lanes, runtime = 1 if settings.lanes == "auto" else settings.lanes, open_runtime(1)
    costs = measure_costs(runtime, probe, settings.max_batch_rows)
    options = EngineOptions(
        lanes, settings.max_queue_rows, settings.max_wait_ms, settings.mode, settings.overload
    )
    return Engine(runtime, costs, metrics, probe, len(manifest.labels), options)


def measure_costs(
    runtime: Runtime, probe: Carry, max_batch_rows: int = 128, seconds: float = SECONDS
) -> CostModel:
    """Median times of every stage by rows, with what dispatching a batch adds.

    Parameters
    ----------
    probe : the model's inputs for one row, repeated for larger batches
    seconds : after so long no larger batch is measured
    """
    begun = perf_counter()
    sizes: list[int] = []
    times: list[list[float]] = []
    rows = 1
    while rows <= max_batch_rows and not (sizes and perf_counter() - begun > seconds):
        carry = tuple(np.repeat(tensor, rows, axis=0) for tensor in probe)
        sizes.append(rows)
        times.append([])
        for stage in range(1, len(runtime.exits) + 1):
            runs = []
            for _ in range(ROUNDS + 1):
                start = perf_counter()
                _, following = runtime.run(stage, carry)
                runs.append(perf_counter() - start)
            times[-1].append(float(np.median(runs[1:])) * 1000 + DISPATCH_MS)
            carry = following
        if max(times[-1]) > SLOWEST_RUN * 1000:
            break
        rows = rows * 2 if rows == max_batch_rows else min(rows * 2, max_batch_rows)
    shape = tuple(tensor.shape[1:] for tensor in probe)
    return CostModel(sizes, np.transpose(times).tolist(), sizes[-1], shape)


def choose_lanes(
    open_runtime: Callable[[int], Runtime],
    probe: Carry,
    lanes: int | Literal["auto"],
    threads: int,
    batch_rows: int,
) -> tuple[int, Runtime]:
    """How many lanes, over a runtime with how many threads each.

    Parameters
    ----------
    open_runtime : by threads
    lanes : `auto` measures rows per second: one lane per core, one lane over all cores, and what
        is between them
    threads : of one lane; 0 leaves it open
    """
    cores = available_cores()
    if lanes != "auto":
        return lanes, open_runtime(threads or max(1, cores // lanes))
    if threads:
        return max(1, cores // threads), open_runtime(threads)
    choices = {cores, 1, max(1, cores // 2)}
    best: tuple[float, int, Runtime] | None = None
    for count in sorted(choices, reverse=True):  # of equals, the one with more lanes
        runtime = open_runtime(max(1, cores // count))
        rate = _rows_per_second(runtime, probe, count, min(16, batch_rows))
        if best is None or rate > best[0]:
            best = rate, count, runtime
    assert best is not None
    return best[1], best[2]


def _rows_per_second(runtime: Runtime, probe: Carry, lanes: int, rows: int) -> float:
    inputs = tuple(np.repeat(tensor, rows, axis=0) for tensor in probe)
    done = [0] * lanes
    start = threading.Barrier(lanes + 1)
    end = perf_counter() + LANE_SECONDS

    def work(lane: int) -> None:
        start.wait()
        while perf_counter() < end or not done[lane]:
            carry = inputs
            for stage in range(1, len(runtime.exits) + 1):
                _, carry = runtime.run(stage, carry)
            done[lane] += rows

    threads = [threading.Thread(target=work, args=(lane,)) for lane in range(lanes)]
    for thread in threads:
        thread.start()
    begun = perf_counter()
    start.wait()
    for thread in threads:
        thread.join()
    return sum(done) / (perf_counter() - begun)
