"""A table of numbers for `offramp train`: pairs of handwritten digits, and what holds for them.

    python examples/train/make.py [--out FOLDER] [--seed 0] [--rows 12000]

Writes rows.csv: the 64 + 64 pixels of two of scikit-learn's digits, labels such as "sum over nine",
and each row's split. The splits are composed of different digits, so that no stroke that the
network learns from comes back when its exits are calibrated, certified and measured.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

SHARES = {"fit": 0.6, "tune": 0.15, "certify": 0.15, "test": 0.1}
LABELS: dict[str, Callable[[int, int], bool]] = {
    "has a loop": lambda left, right: left in {0, 6, 8, 9} or right in {0, 6, 8, 9},
    "has a one": lambda left, right: left == 1 or right == 1,
    "left is larger": lambda left, right: left > right,
    "equal": lambda left, right: left == right,
    "sum is even": lambda left, right: (left + right) % 2 == 0,
    "sum over nine": lambda left, right: left + right > 9,
}


def compose_row(pixels: np.ndarray, digits: np.ndarray, split: str) -> list[object]:
    """Cells of one row; pixels (2, 64), 0 to 16, and which digits they show (2,)."""
    left, right = (int(digit) for digit in digits)
    names = [name for name, holds in LABELS.items() if holds(left, right)]
    return [*pixels.astype(int).ravel(), ",".join(names), split]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("build/examples/train"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rows", type=int, default=12_000)
    arguments = parser.parse_args()
    rng = np.random.default_rng(arguments.seed)
    source = load_digits()
    order = rng.permutation(len(source.target))
    bounds = (np.cumsum(list(SHARES.values()))[:-1] * len(order)).astype(int)
    arguments.out.mkdir(parents=True, exist_ok=True)
    with (arguments.out / "rows.csv").open("w", newline="") as file:
        table = csv.writer(file)
        pixels = [f"{side}{number:02}" for side in ("left", "right") for number in range(64)]
        table.writerow([*pixels, "labels", "split"])
        for split, pool in zip(SHARES, np.split(order, bounds), strict=True):
            for chosen in rng.choice(pool, (round(SHARES[split] * arguments.rows), 2)):
                row = compose_row(source.data[chosen], source.target[chosen], split)
                table.writerow(row)


if __name__ == "__main__":
    main()
