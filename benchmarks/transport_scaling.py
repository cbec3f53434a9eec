"""What W-distances cost by rows and labels, and what the profile of seven layers costs.

    OMP_NUM_THREADS=1 python benchmarks/transport_scaling.py [--device cuda]

Prints markdown tables. Sliced, one-dimensional and Bures see all rows; exact W2, W1 and Sinkhorn
see sub-samples of 500, drawn as calibration draws them. Every cell is measured in a process of its
own, so that its peak of memory is its own: beyond that of the process with its data.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
from collections.abc import Callable
from functools import partial
from time import perf_counter, process_time
from typing import TypeVar

import numpy as np
from rich.progress import Progress

from calibration.layer_profile import profile_layers
from calibration.resampling import Resamples
from calibration.transport import bures_w, exact_w, label_w1, on_device, sinkhorn_w, sliced_w
from models.machine import machine_name
from models.runtime import Answers

ROWS = (1_000, 3_000, 10_000, 30_000, 100_000)
LABELS = 28
MANY_LABELS = 983
LAYERS = 7
PROFILE_ROWS = 5_000
REPEATS = 3

T = TypeVar("T")

WHOLE: dict[str, Callable[..., object]] = {
    "sliced": partial(sliced_w, seed=0),
    "one-dimensional": label_w1,
    "Bures": bures_w,
}
SAMPLED: dict[str, Callable[..., object]] = {
    "exact W2": exact_w,
    "exact W1": partial(exact_w, order=1),
    "Sinkhorn": sinkhorn_w,
}


def answers_and_labels(
    rows: int, labels: int, sharpness: float = 2.0
) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities float32 (n, L) of a classifier that is often right, and true label sets."""
    rng = np.random.default_rng(0)
    truth = rng.random((rows, labels), np.float32) < 0.05
    logits = 1.5 * rng.standard_normal((rows, labels), np.float32) - 3
    logits += np.float32(sharpness) * truth
    return 1 / (1 + np.exp(-logits)), truth


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def one_distance(name: str, rows: int, device: str) -> tuple[float, int]:
    """Median seconds of a value over the rows of a split, and bytes of memory beyond the data."""
    answers, truth = answers_and_labels(rows, LABELS)
    target = truth.astype(np.float32)
    parts = Resamples.of(rows, 0).parts if name in SAMPLED else (slice(None),)

    def value(points: np.ndarray, other: np.ndarray) -> None:
        for chosen in parts:
            pair = on_device(points[chosen], device), on_device(other[chosen], device)
            (WHOLE | SAMPLED)[name](*pair)

    (WHOLE | SAMPLED)[name](*(on_device(side[:100], device) for side in (answers, target)))
    before, times = peak_bytes(), []
    for _ in range(REPEATS):
        start = perf_counter()
        value(answers, target)
        times.append(perf_counter() - start)
    return float(np.median(times)), peak_bytes() - before


def one_profile(labels: int, device: str) -> tuple[float, float, int]:
    """Seconds of the profile of seven layers, of clock and CPU, and the process's peak in bytes."""
    made = [answers_and_labels(PROFILE_ROWS, labels, 1 + k / 2) for k in range(LAYERS)]
    answers = [Answers(p, p > 0.4, p.max(axis=1)) for p, _ in made]
    layers = [(f"layer {k}", 1.0) for k in range(LAYERS)]
    truth = made[0][1]
    start, cpu = perf_counter(), process_time()
    profile_layers(
        layers, answers, answers[-1].probabilities, truth, 0, Progress(disable=True), device
    )
    return perf_counter() - start, process_time() - cpu, peak_bytes()


def alone(task: Callable[..., T], *arguments: object) -> T:
    """Run in a fresh process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(task, arguments)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cpu")
    device = parser.parse_args().device
    print(f"{machine_name()}; device {device}; {LABELS} labels; seconds (MiB beyond the data)\n")
    print("| distance |" + "".join(f" {rows:,} rows |" for rows in ROWS))
    print("|---|" + "---:|" * len(ROWS))
    for name in WHOLE | SAMPLED:
        cells = [alone(one_distance, name, rows, device) for rows in ROWS]
        print(f"| {name} |" + "".join(f" {s:.3f} ({b / 2**20:.0f}) |" for s, b in cells))
    print(f"\n| {LAYERS} layers, {PROFILE_ROWS:,} rows | seconds | of CPU | peak of memory |")
    print("|---|---:|---:|---:|")
    for labels in (LABELS, MANY_LABELS):
        seconds, cpu, peak = alone(one_profile, labels, device)
        print(f"| {labels} labels | {seconds:.1f} | {cpu:.1f} | {peak / 2**30:.2f} GiB |")


if __name__ == "__main__":
    main()
