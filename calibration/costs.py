"""Measures what the stages cost on this machine."""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np

from models.machine import machine_name
from models.manifest import Costs
from models.runtime import Carry, StageRuntime

if TYPE_CHECKING:
    from rich.progress import Progress

BATCH_ROWS = (1, 2, 4, 8, 16, 32)
ROUNDS = 30


def measure_costs(runtime: StageRuntime, rows: Carry, progress: Progress) -> Costs:
    """Median milliseconds of every stage at every batch size; rounds visit all of them in turn.

    Parameters
    ----------
    runtime : its sessions' threads are what is measured
    rows : the model's inputs for at least one row of real data; repeated where they are too few
    """
    copies = -(-max(BATCH_ROWS) // len(rows[0]))
    repeated = [np.concatenate([tensor] * copies) for tensor in rows]
    carries = {n: _carries(runtime, tuple(t[:n] for t in repeated)) for n in BATCH_ROWS}
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
        beyond_milliseconds=(0.0,) * len(BATCH_ROWS),
    )


def without_last_stage(costs: Costs) -> Costs:
    """The costs of a bundle that leaves the last stage out."""
    *kept, last = costs.stage_milliseconds
    return costs.model_copy(update={"stage_milliseconds": tuple(kept), "beyond_milliseconds": last})


def computed_time(exits: np.ndarray, costs: Costs, batch: int = -1) -> float:
    """Mean stage time of rows leaving at `exits`, as a share of the full model's.

    Parameters
    ----------
    exits : int (n,) in 1..K
    batch : index into `costs.batch_rows`
    """
    until_exit = np.cumsum([stage[batch] for stage in costs.stage_milliseconds])
    full = until_exit[-1] + costs.beyond_milliseconds[batch]
    return float(until_exit[exits - 1].mean() / full)


def _carries(runtime: StageRuntime, rows: Carry) -> list[Carry]:
    """The carry into each stage for these rows."""
    carries = [rows]
    for stage in range(1, runtime.depth):
        _, carry = runtime.run(stage, carries[-1])
        carries.append(carry)
    return carries
