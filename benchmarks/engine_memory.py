"""Memory of the process while the engine answers very many rows."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
from engine_load import answer_all
from engine_saturated import REQUEST_ROWS
from engine_setup import CAPACITY, NEVER, Plan, Stand, open_engine
from engine_table import Table, Target

from service.engine_options import EngineOptions

SAMPLES = 20
ENOUGH = 100_000  # rows, to tell a slope
FLAT = 1.0  # MiB per 100,000 rows
STATUS = Path("/proc/self/status")


def resident_mib() -> float:
    """Resident memory of this process."""
    if STATUS.exists():
        lines = STATUS.read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024
    import psutil

    return float(psutil.Process().memory_info().rss) / 2**20


def measure_memory(stand: Stand, plan: Plan) -> tuple[Table, Target]:
    """The slope of resident memory over rows, after a tenth of them as a warm-up."""
    case, step = stand.case, plan.memory // SAMPLES
    jobs, clients = stand.jobs("rebatch", REQUEST_ROWS), stand.clients(REQUEST_ROWS)
    # an engine of its own: the recorder below the other keeps its runs
    options = EngineOptions(stand.lanes, CAPACITY, NEVER)
    engine = open_engine(case, stand.staged.bare, stand.costs, options)
    sizes = []
    asyncio.run(answer_all(engine, jobs, clients, plan.memory // 10))
    for _ in range(SAMPLES + 1):
        sizes.append(resident_mib())
        asyncio.run(answer_all(engine, jobs, clients, step))
    engine.close()
    slope = float(np.polyfit(np.arange(SAMPLES + 1) * step / 100_000, sizes, 1)[0])
    table = Table(
        f"{case.name}: memory",
        f"Resident MiB over {plan.memory:,} rows answered, after {plan.memory // 10:,} before.",
        ("first", "last", "least", "most", "MiB per 100,000 rows"),
        [(*(f"{x:.1f}" for x in (sizes[0], sizes[-1], min(sizes), max(sizes))), f"{slope:.2f}")],
    )
    met = abs(slope) <= FLAT if plan.memory >= ENOUGH else None
    asked = f"at most {FLAT:g} MiB per 100,000 rows"
    return table, Target(f"memory over {plan.memory:,} rows", f"{slope:.2f}", asked, met)
