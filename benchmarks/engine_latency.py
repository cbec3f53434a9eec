"""Latency: single-row requests that come whether or not those before are answered."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import numpy as np
from engine_hard_rows import among_burst, among_standing
from engine_load import Stream, open_loop, poisson, settle
from engine_setup import Plan, Stand
from engine_table import Table, Target, at_most, spread

from service.scheduler import Mode

LOADS = (0.5, 0.7, 0.9)
"""Of what the engine with exits off can answer."""
VARIANTS: tuple[Mode, ...] = ("rebatch", "monolith")
WARM = 0.15  # of a stream, before it counts
EASY = 0.3  # of what the engine with exits off can answer: the stream beside hard rows
MOST_BATCHES = 1.5  # of stage 1, that hard rows may add
BURST_ROWS = 32  # of a request
LONGEST_BURST = 60.0  # seconds


def measure_latency(stand: Stand, plan: Plan, capacity: float) -> Table:
    """Percentiles of an open loop in `rebatch` and with exits off, on the same arrivals.

    Parameters
    ----------
    capacity : single-row requests per second that the engine with exits off can answer
    """
    seen: dict[tuple[float, Mode], list[list[float]]] = {}
    jobs = {mode: stand.jobs(mode, 1) for mode in VARIANTS}
    for number in range(plan.rounds):
        for load in LOADS:
            times = poisson(load * capacity, plan.stream * (1 + WARM), number)
            for mode in VARIANTS if number % 2 else VARIANTS[::-1]:
                settle(stand.recorder(mode))
                stream = asyncio.run(
                    open_loop(stand.engines[mode], jobs[mode], times, WARM * plan.stream)
                )
                figures = [*stream.percentiles(50, 95, 99), float(np.median(stream.lateness))]
                seen.setdefault((load, mode), []).append(figures)
    rows = [
        (
            f"{load:.0%}",
            f"{load * capacity:.0f}",
            mode,
            *(spread(column, 2) for column in np.transpose(seen[load, mode])),
        )
        for load in LOADS
        for mode in VARIANTS
    ]
    return Table(
        f"{stand.case.name}: open loop",
        "Milliseconds from the scheduled arrival to the answer, single-row requests, Poisson "
        f"arrivals; load as a share of the {capacity:.0f} per second that `monolith` answers when "
        "saturated with them. Sent: how much later than scheduled the generator sent one (median).",
        ("load", "rows/s", "mode", "p50", "p95", "p99", "sent"),
        rows,
    )


def measure_hard_rows(
    stand: Stand, plan: Plan, capacity: float, batch: float
) -> tuple[Table, list[Target]]:
    """How much longer rows that leave at exit 1 take when hard rows are in the system.

    Parameters
    ----------
    batch : milliseconds of a full batch of stage 1
    """
    easy = stand.case.exits == stand.staged.exits[0]
    if not easy.any():
        text = "No row of the pool leaves at exit 1: there is nothing to measure."
        title = f"{stand.case.name}: rows of exit 1 beside hard rows"
        return Table(title, text, ("hard rows",), [("-",)]), []
    kinds = [("past stage 1", count) for count in (0, *plan.hard)]
    kinds += [("one burst", count) for count in plan.hard]
    medians, standing = np.full((2, plan.rounds, len(kinds)), np.nan)
    for number in range(plan.rounds):
        for place, (kind, count) in enumerate(kinds):
            stream, present = _beside(stand, plan, easy, EASY * capacity, (kind, count, number))
            medians[number, place] = stream.percentiles(50)[0]
            standing[number, place] = present
    added = (medians - medians[:, :1]) / batch
    targets = [
        at_most(f"p50 at exit 1, {count} hard rows, {kind}", added[:, place], MOST_BATCHES)
        for place, (kind, count) in enumerate(kinds)
        if count and kind != "one burst"  # rows that came first are served first
    ]
    rows = [
        (
            kind if count else "none",
            str(count),
            f"{np.median(standing[:, place]):.0f}",
            spread(medians[:, place], 2),
            spread(added[:, place], 2),
        )
        for place, (kind, count) in enumerate(kinds)
    ]
    return _hard_table(stand, EASY * capacity, batch, rows), targets


def _hard_table(stand: Stand, rate: float, batch: float, rows: Sequence[tuple[str, ...]]) -> Table:
    return Table(
        f"{stand.case.name}: rows of exit 1 beside hard rows",
        f"Median milliseconds of a Poisson stream of {rate:.0f} single-row requests per second "
        "that leave at exit 1, while rows that leave nowhere early are in the system: past stage "
        "1, those that leave being replaced a few at a time; or in one burst before the stream, "
        "which lasts until they are answered: those wait at the entrance first, and nobody knows "
        f"that they are hard. In units of a full batch of stage 1, {batch:.2f} ms.",
        ("hard rows", "wanted", "present", "p50", "added, in batches of stage 1"),
        rows,
    )


def _beside(
    stand: Stand, plan: Plan, easy: np.ndarray, rate: float, load: tuple[str, int, int]
) -> tuple[Stream, float]:
    kind, count, seed = load
    engine, recorder = stand.engines["rebatch"], stand.recorder("rebatch")
    settle(recorder)
    jobs = stand.jobs("rebatch", 1, easy)
    if kind == "one burst":
        requests = stand.hard_jobs(min(BURST_ROWS, count))
        hard = [requests[k % len(requests)] for k in range(-(-count // BURST_ROWS))]
        times = poisson(rate, LONGEST_BURST, seed)
        return asyncio.run(among_burst(engine, (jobs, times), hard)), float(count)
    full = min(load.rows for load in stand.loads if load.key[0] == 1)
    hard = stand.hard_jobs(max(1, 3 * full // 4))
    times = poisson(rate, plan.stream, seed)
    return asyncio.run(among_standing(engine, recorder, (jobs, times), hard, count))
