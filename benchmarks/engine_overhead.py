"""What the scheduler alone takes per row and stage, by how many rows wait; nothing is run."""

from __future__ import annotations

from time import perf_counter

import numpy as np
from engine_table import Table, Target, at_most, spread

from service.costs import CostModel
from service.request import Priority
from service.scheduler import Scheduler

STAGES = 6
QUEUED = (1, 10_000, 100_000)
STAY = 0.6  # of the rows of a batch go on to the next stage
SHAPE = ((32,), (32,))
FAR = 1000  # rows of a request that no batch comes to
CONSTANT = 1.25  # times what it takes with one row queued
KINDS = (
    ("batches of 32, of requests of 32 rows", 32, 32),
    ("batches of 32, of single-row requests", 32, 1),
    ("batches of 1", 1, 1),
)
"""Name, rows of a full batch, rows of a request."""


def measure_overhead(rounds: int, row_stages: int) -> tuple[Table, list[Target]]:
    """Microseconds of `Scheduler.enter`, `pick`, `go_on` and `remove` together per row and stage.

    row_stages : runs of a row in a stage per measurement
    """
    figures = np.zeros((rounds, len(KINDS), len(QUEUED)))
    for turn in figures:
        for place, (_, full, request) in enumerate(KINDS):
            for column, queued in enumerate(QUEUED):
                # batches of one row are slow: fewer of them tell as much
                count = row_stages if full > 1 else row_stages // 8
                turn[place, column] = _microseconds(queued, full, request, count)
    rows = [
        (name, *(spread(figures[:, place, column], 2) for column in range(len(QUEUED))))
        for place, (name, _, _) in enumerate(KINDS)
    ]
    table = Table(
        "The scheduler alone",
        f"Microseconds per row and stage, {STAGES} stages, {STAY:.0%} of a batch go on; by the "
        "rows that wait.",
        ("", *(f"{queued:,} queued" for queued in QUEUED)),
        rows,
    )
    ratios = [
        at_most(
            f"scheduler, {name}: {QUEUED[-1]:,} queued over 1",
            figures[:, place, -1] / figures[:, place, 0],
            CONSTANT,
            "(constant)",
        )
        for place, (name, _, _) in enumerate(KINDS)
    ]
    return table, ratios


def _microseconds(queued: int, full: int, request: int, row_stages: int) -> float:
    costs = CostModel((1, full), [[1.0, 1.0]] * STAGES, full, SHAPE)
    scheduler = Scheduler(costs, queued + 64 * full)
    near = min(queued, row_stages)  # those that the turns below come to
    _enter(scheduler, near, request)
    _enter(scheduler, queued - near, FAR)
    _enter(scheduler, 2 * full, request)
    done, begun = 0, perf_counter()
    while done < row_stages:
        done += _turn(scheduler, request)
    return (perf_counter() - begun) * 1e6 / done


def _turn(scheduler: Scheduler, request: int) -> int:
    """Run a batch, replace the rows that leave; how many rows ran."""
    batch = scheduler.pick(0.0)
    assert batch is not None
    count = len(batch.ids)
    stays = np.arange(count) < (STAY * count if batch.stage < STAGES else 0)
    if count == 1 and batch.stage < STAGES:
        stays[0] = batch.ids[0] % 5 < 5 * STAY
    if stays.any():
        scheduler.go_on(batch, np.flatnonzero(stays), None, False, 0.0)
    left = batch.ids[~stays]
    if len(left):
        scheduler.remove(left)
        _enter(scheduler, len(left), request)
    return count


def _enter(scheduler: Scheduler, rows: int, request: int) -> None:
    for start in range(0, rows, request):
        count = min(request, rows - start)
        scheduler.enter([(SHAPE, count, None)], Priority.INTERACTIVE, float("inf"), 0.0)
