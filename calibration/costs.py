"""Measures what the stages cost on this machine."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np

from models.errors import CalibrationError
from models.manifest import Costs
from models.runtime import Carry, StageRuntime

if TYPE_CHECKING:
    from rich.progress import Progress

BATCH_ROWS = (1, 2, 4, 8, 16, 32)
ROUNDS = 30


def measure_costs(runtime: StageRuntime, inputs: np.ndarray, progress: Progress) -> Costs:
    """Median milliseconds of every stage at every batch size; rounds visit all of them in turn.

    Parameters
    ----------
    runtime : its sessions' threads are what is measured
    inputs : at least 32 rows of real data
    """
    if len(inputs) < max(BATCH_ROWS):
        raise CalibrationError(
            f"the tune split has {len(inputs)} rows, expected at least {max(BATCH_ROWS)} to "
            "measure the stages' costs; give it more rows"
        )
    carries = {batch: _carries(runtime, inputs[:batch]) for batch in BATCH_ROWS}
    times = np.zeros((ROUNDS, runtime.depth, len(BATCH_ROWS)))
    for number in progress.track(range(ROUNDS), description="stage costs"):
        for column, batch in enumerate(BATCH_ROWS):
            for stage in range(1, runtime.depth + 1):
                start = perf_counter()
                runtime.run(stage, carries[batch][stage - 1])
                times[number, stage - 1, column] = (perf_counter() - start) * 1000
    medians = np.median(times, axis=0)
    return Costs(
        machine=machine_name(),
        batch_rows=BATCH_ROWS,
        stage_milliseconds=tuple(tuple(float(ms) for ms in row) for row in medians),
    )


def computed_time(exits: np.ndarray, stage_milliseconds: Sequence[float]) -> float:
    """Mean stage time of rows leaving at `exits`, int (n,) in 1..K, as a share of full depth."""
    until_exit = np.cumsum(stage_milliseconds)
    return float(until_exit[exits - 1].mean() / until_exit[-1])


def machine_name() -> str:
    """Processor and number of cores, as measurements name their machine."""
    import os

    processor = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            models = [
                line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")
            ]
        processor = models[0]
    except (OSError, IndexError):
        pass
    return f"{processor}, {os.cpu_count()} cores"


def _carries(runtime: StageRuntime, inputs: np.ndarray) -> list[Carry]:
    """The carry into each stage for these rows."""
    carries: list[Carry] = [(inputs,)]
    for stage in range(1, runtime.depth):
        _, carry = runtime.run(stage, carries[-1])
        carries.append(carry)
    return carries
