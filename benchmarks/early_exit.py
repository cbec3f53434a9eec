"""What leaving early saves in the service: the certified policy against full depth, in one run.

    python benchmarks/early_exit.py [--bundle bundles/digits]

Requests of digits test rows go through the dataplane one after another, the two policies taking
turns. Prints the median of the ratios of each round, and their spread, per batch size.
"""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path
from time import perf_counter

import numpy as np

from calibration.dataset import split_rows
from calibration.digits import compose_digits
from models.bundle import read_bundle
from models.machine import machine_name
from service.dataplane import Dataplane
from service.metrics import Metrics
from service.options import Options
from service.settings import Settings

BATCHES = (1, 8, 32)
ROUNDS = 15
ROWS_PER_ROUND = 960


async def milliseconds(plane: Dataplane, rows: np.ndarray, batch: int, policy: str) -> float:
    start = perf_counter()
    for first in range(0, len(rows), batch):
        await plane.predict(rows[first : first + batch], Options(policy))
    return (perf_counter() - start) * 1000


async def measure(plane: Dataplane, rows: np.ndarray) -> None:
    await plane.warm_up()
    print(f"{machine_name()}; {plane.manifest.name}, one lane; {ROUNDS} rounds")
    print("batch  certified ms/row  full ms/row  certified / full (quartiles)")
    for batch in BATCHES:
        times = np.array(
            [
                [await milliseconds(plane, rows, batch, policy) for policy in ("certified", "full")]
                for _ in range(ROUNDS)
            ]
        )
        certified, full = np.median(times, axis=0) / len(rows)
        low, middle, high = np.quantile(times[:, 0] / times[:, 1], [0.25, 0.5, 0.75])
        print(f"{batch:5} {certified:17.3f} {full:12.3f}  {middle:.2f} ({low:.2f} to {high:.2f})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", type=Path, default=Path("bundles/digits"))
    bundle = read_bundle(parser.parse_args().bundle)
    plane = Dataplane(bundle, Settings(lanes=1, threads=1), Metrics())
    asyncio.run(measure(plane, split_rows(compose_digits(), "test")[:ROWS_PER_ROUND]))
    plane.close()


if __name__ == "__main__":
    main()
