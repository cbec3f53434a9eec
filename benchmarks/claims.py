"""The five claims of Cao, Li, Hu, Wu and Tan (2022) about layers, measured: docs/claims.md.

    python benchmarks/claims.py [--out docs] [--data FILE [--test FILE]]

Trains networks with and without auxiliary losses from several seeds, on the composed digits or on
any data that calibration reads, and prints every statistic with its interval and its verdict. With
--out the section of this data in claims.md is written anew, beside its picture; others stay.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from time import perf_counter

import numpy as np
from claim_page import draw, rules_list, section, write_page
from claim_runs import DATA_SEED, Run, Setting, arm_of, train_and_measure
from claim_statistics import WITH, WITHOUT, findings

from calibration.architecture import ArchitectureOptions
from calibration.digits import compose_digits
from calibration.readers import DataOptions, open_dataset
from calibration.splits import assign_splits
from models.errors import OfframpError
from models.machine import available_cores

DIGITS_ROWS = {"fit": 6000, "tune": 1500, "certify": 0, "test": 3000}
SHARES = {"fit": 0.6, "tune": 0.2, "certify": 0.05, "test": 0.15}  # certify is not needed here


def open_setting(given: argparse.Namespace) -> Setting:
    residual = {"stages": given.layers, "blocks_per_stage": 1}
    if given.data is None:
        dataset, name = compose_digits(DATA_SEED, DIGITS_ROWS), "digits"
        split, architecture = dataset.split, ArchitectureOptions("resnet", residual)
    else:
        dataset = open_dataset(DataOptions(given.data, test=given.test))
        split, name = (
            assign_splits(dataset, DATA_SEED, SHARES),
            given.data.stem.removesuffix("-train"),
        )
        vectors = dataset.kind == "numbers" and np.ndim(next(dataset.read(1))[0]) == 1
        network = {"blocks": given.layers} if vectors else residual
        # a pretrained encoder has the layers it has
        own = given.architecture not in (None, "resnet", "mlp")
        architecture = ArchitectureOptions(given.architecture, {} if own else network)
    return Setting(name, dataset, split, architecture, given.epochs, given.threads)


def run(setting: Setting, seeds: int, out: Path | None) -> None:
    print(f"The rules:\n\n{rules_list()}\n", flush=True)
    started = perf_counter()
    runs: dict[str, list[Run]] = {WITH: [], WITHOUT: []}
    for seed in range(seeds):
        for name, of_arm in runs.items():
            of_arm.append(train_and_measure(setting, seed, auxiliary=name == WITH))
            seconds = perf_counter() - started
            print(f"seed {seed}, {name}: done after {seconds:.0f} s", file=sys.stderr, flush=True)
    arms = [arm_of(name, of_arm) for name, of_arm in runs.items()]
    found = findings(*arms)
    text = section(setting, runs[WITH][0].network, arms, found, perf_counter() - started)
    print(text)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        draw(arms, found, out / f"claims-{setting.name}.png")
        write_page(out / "claims.md", setting.name, text)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, help="folder of claims.md and its pictures")
    parser.add_argument("--data", type=Path, help="rows instead of the digits")
    parser.add_argument("--test", type=Path, help="rows of the test split; else drawn from --data")
    parser.add_argument("--architecture", help="resnet, mlp, or the folder of a text encoder")
    parser.add_argument("--layers", type=int, default=8, help="exits of resnet and mlp")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=available_cores())
    given = parser.parse_args()
    if given.seeds < 2 or given.layers < 3:
        parser.error("expected at least 2 seeds and 3 layers: there are no intervals with fewer")
    if given.test is not None and given.data is None:
        parser.error("--test is for --data: the digits have test rows of their own")
    try:
        run(open_setting(given), given.seeds, given.out)
    except OfframpError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
