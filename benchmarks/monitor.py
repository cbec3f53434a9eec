"""What shadow runs cost others: latency of an open loop by the share of rows that is drawn.

    python benchmarks/monitor.py [--bundle bundles/digits] [--texts DATA/goemotions
        --encoder-bundle DIR] [--out docs/results.md] [--rounds N] [--seconds S]

The shares take turns in every round, on the same arrivals.
"""

from __future__ import annotations

import argparse
import asyncio
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from engine_case import Case, digits_case, text_case
from engine_load import answered_per_second, open_loop, poisson
from engine_table import Table, spread
from result_page import write_section

from models.bundle import read_bundle
from models.machine import machine_name
from service.dataplane import Dataplane
from service.garbage import settle_garbage
from service.metrics import Metrics
from service.prediction import Prediction
from service.prepared_rows import PreparedRows
from service.settings import Settings

HEADING = "## Shadow runs of the monitor"
SHARES = (0.0, 0.01, 0.1)
LOADS = (0.3, 0.5, 0.7)
"""Of the requests per second that the service answers when saturated with them, without shadow."""
NEVER = 1e-9
"""Alpha: it must not fall back while it is measured."""
ROWS, CLIENTS, WARM_SECONDS, POOL = 1, 64, 1.0, 2000


@dataclass
class Stand:
    """A warm dataplane; answers requests as an engine does."""

    plane: Dataplane

    async def run(self, rows: PreparedRows) -> Prediction:
        """Answer all rows."""
        return await self.plane.predict(rows)

    @property
    def compared(self) -> float:
        """Rows so far."""
        metrics = self.plane.metrics
        return metrics.families.monitor_rows.labels(metrics.model, "compared")._value.get()


def measure(case: Case, bundle: Path, rounds: int, seconds: float) -> Table:
    """The table of one bundle."""
    stands = {share: _open(bundle, share) for share in SHARES}
    settle_garbage()  # as the service does
    requests = [PreparedRows(groups) for groups in case.pool.requests(ROWS)]
    answer = stands[0.0].run
    full = answered_per_second(answer, requests, CLIENTS, WARM_SECONDS, seconds)
    capacity = asyncio.run(full)
    seen: dict[tuple[float, float], list[list[float]]] = {}
    for number in range(rounds):
        for load in LOADS:
            times = poisson(load * capacity, WARM_SECONDS + seconds, number)
            for share in SHARES if number % 2 else SHARES[::-1]:
                stand, before = stands[share], stands[share].compared
                stream = asyncio.run(open_loop(stand, requests, times, WARM_SECONDS))
                rate = (stand.compared - before) / (WARM_SECONDS + seconds)
                figures = [*stream.percentiles(50, 95, 99), rate]
                seen.setdefault((load, share), []).append(figures)
    for stand in stands.values():
        stand.plane.close()
    rows = [
        (f"{load:.0%}", f"{share:.0%}", *(spread(c, 2) for c in np.transpose(seen[load, share])))
        for load in LOADS
        for share in SHARES
    ]
    return Table(
        case.name,
        f"Milliseconds from the scheduled arrival to the answer, single-row requests, Poisson "
        f"arrivals; load as a share of the {capacity:.0f} per second that are answered when "
        "saturated with them.",
        ("load", "shadow", "p50", "p95", "p99", "rows compared per second"),
        rows,
    )


def _open(bundle: Path, share: float) -> Stand:
    settings = Settings(bundle=str(bundle), shadow_share=share, monitor_alpha=NEVER)
    plane = Dataplane(read_bundle(bundle), settings, Metrics())
    asyncio.run(plane.warm_up())
    if not plane.ready:
        raise SystemExit(f"{bundle}: {plane.reason}")
    return Stand(plane)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", type=Path, default=Path("bundles/digits"))
    parser.add_argument("--texts", type=Path, help="with --encoder-bundle: lines of text")
    parser.add_argument("--encoder-bundle", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--out", type=Path, help="a page whose section is written anew")
    arguments = parser.parse_args()
    cases = [(digits_case(arguments.bundle, POOL), arguments.bundle)]
    if arguments.texts and arguments.encoder_bundle:
        path = arguments.encoder_bundle
        cases.append((text_case(path, arguments.texts, POOL), path))
    tables = []
    for case, path in cases:
        tables.append(measure(case, path, arguments.rounds, arguments.seconds))
        print(tables[-1].plain(), flush=True)
    if arguments.out:
        note = f"`python benchmarks/monitor.py`, {machine_name()}; median (quartiles) of rounds."
        parts = [f"{HEADING}\n\n{note}\n", *(table.markdown() for table in tables)]
        write_section(arguments.out, HEADING, parts)


if __name__ == "__main__":
    main()
