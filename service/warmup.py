"""Warm-up: opens the stages, measures them on this machine, and chooses the lanes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
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
    from service.model_metrics import ModelMetrics
    from service.scheduler import Mode

FEWEST_ROUNDS, MOST_ROUNDS = 4, 30
SECONDS = 2.0  # after which no further round of measuring costs begins
SLOWEST_RUN_MS = 500.0  # larger batches would make other rows wait too long
LANE_ROUNDS = 5
LANE_SECONDS = 0.1  # of measuring one choice of lanes, per round
CLEARLY = 1.05  # faster, for fewer lanes to be chosen
DISPATCH_MS = 0.3  # of a batch beside its stage: picking, gathering, answering


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


def open_engine(bundle: Bundle, settings: Settings, metrics: ModelMetrics) -> Engine:
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
    if isinstance(runtime, StageRuntime):
        runtime.release(probe)
    options = EngineOptions(
        lanes, settings.max_queue_rows, settings.max_wait_ms, settings.mode, settings.overload
    )
    return Engine(runtime, costs, metrics, probe, len(manifest.labels), options)


def measure_costs(
    runtime: Runtime, probe: Carry, max_batch_rows: int = 128, seconds: float = SECONDS
) -> CostModel:
    """Times of every stage by rows, with what dispatching a batch adds.

    The fastest of some rounds counts: what else the machine does is not the stage's cost.

    Parameters
    ----------
    probe : the model's inputs for one row, repeated for larger batches
    seconds : after so long no further round begins
    """
    begun = perf_counter()
    rounds = [_one_round(runtime, probe, _sizes(max_batch_rows))]  # it warms up, too
    sizes = _sizes(max_batch_rows)[: len(rounds[0])]
    while len(rounds) < FEWEST_ROUNDS or perf_counter() - begun < seconds:
        rounds.append(_one_round(runtime, probe, sizes))
        if len(rounds) == MOST_ROUNDS:
            break
    shortest = min(map(len, rounds))
    fastest = np.min([times[:shortest] for times in rounds[1:]], axis=0)
    shape = tuple(tensor.shape[1:] for tensor in probe)
    sizes = sizes[:shortest]
    return CostModel(sizes, (fastest.T + DISPATCH_MS).tolist(), sizes[-1], shape)


def _sizes(most: int) -> list[int]:
    """1, 2, 4, ... and `most`."""
    return sorted({most, *(2**k for k in range(most.bit_length()) if 2**k <= most)})


def _one_round(runtime: Runtime, probe: Carry, sizes: Sequence[int]) -> list[list[float]]:
    """Milliseconds, [batch][stage]; larger batches than take half a second are left out."""
    times: list[list[float]] = []
    for rows in sizes:
        carry = tuple(np.repeat(tensor, rows, axis=0) for tensor in probe)
        times.append([])
        for stage in range(1, len(runtime.exits) + 1):
            start = perf_counter()
            _, carry = runtime.run(stage, carry)
            times[-1].append((perf_counter() - start) * 1000)
        if max(times[-1]) > SLOWEST_RUN_MS:
            break
    return times


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
        is between them; more lanes win unless fewer are clearly faster
    threads : of one lane; 0 leaves it open
    """
    cores = available_cores()
    if lanes != "auto":
        return lanes, open_runtime(threads or max(1, cores // lanes))
    if threads:
        return max(1, cores // threads), open_runtime(threads)
    choices = sorted({cores, max(1, cores // 2), 1}, reverse=True)
    runtimes = {count: open_runtime(max(1, cores // count)) for count in choices}
    if len(choices) == 1:
        return next(iter(runtimes.items()))
    rates = {
        count: float(np.median(rounds))
        for count, rounds in _measured_in_turn(runtimes, probe, min(16, batch_rows)).items()
    }
    best = choices[0]
    for count in choices[1:]:
        if rates[count] > CLEARLY * rates[best]:
            best = count
    return best, runtimes[best]


def _measured_in_turn(
    runtimes: dict[int, Runtime], probe: Carry, rows: int
) -> dict[int, list[float]]:
    """Rows per second of every choice, by its lanes; rounds visit all, as the machine is noisy."""
    rates: dict[int, list[float]] = {count: [] for count in runtimes}
    for _ in range(LANE_ROUNDS):
        for count, runtime in runtimes.items():
            rates[count].append(_rows_per_second(runtime, probe, count, rows))
    return rates


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
