"""The service under faults: who is harmed, what is refused, and what it says of it.

    python benchmarks/faults.py [--only NAME]... [--bundle DIR] [--quick] [--page FILE]

Every fault is made on the service as `make serve` starts it, on the loopback, beside bystanders
whose answers are checked. A fault that does not meet its mark makes the exit status 1. Figures go
into a row of docs/reliability.md.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter

import grpc
import httpx
from checked_rows import CheckedRows, checked_rows
from faults_alarms import false_alarms
from faults_bundle import refused_starts
from faults_drift import drift
from faults_lane import lane_death
from faults_site import QUICK, Finding, Plan, Skipped, unharmed
from faults_state import damaged_state
from faults_survived import SURVIVED, UNHARMED, survivor
from reliability_page import PAGE, Row, write_row
from reliability_server import ROOT, NotServing

from models.bundle import Bundle, read_bundle

POOL = 400
"""Rows that bystanders draw from."""


@dataclass(frozen=True)
class Alone:
    """A fault with servers of its own, or with none."""

    make: Callable[[Bundle, CheckedRows, Plan, Path], Finding]
    expected: str


ALONE = {
    "lane-death": Alone(
        lane_death,
        "rows get 503 or UNAVAILABLE with the reason, no 429; not ready; ends with status 70",
    ),
    "damaged-state": Alone(damaged_state, "full depth is served, the log and /monitor say why"),
    "altered-start": Alone(refused_starts, "refused with the file's name"),
    "drift": Alone(
        drift,
        "falls back to full depth, over a SIGKILL too, until a reset; not while the promise holds",
    ),
    "false-alarms": Alone(false_alarms, "in at most 1% of streams over which the promise holds"),
}
NAMES = (*SURVIVED, *ALONE)
Outcome = Finding | Skipped


def outcomes(
    names: Sequence[str], bundle: Bundle, rows: CheckedRows, plan: Plan, folder: Path
) -> Iterator[tuple[str, Outcome]]:
    """Make the faults one after another; what each did."""
    shared = [name for name in names if name in SURVIVED]
    if shared:
        place_folder = folder / "survived"
        place_folder.mkdir()
        print(f"starting a server for: {', '.join(shared)}", flush=True)
        with survivor(shared, bundle, rows, plan, place_folder) as (place, skipped):
            for name in shared:
                print(f"{name} ...", flush=True)
                if name in skipped:
                    yield name, Skipped(skipped[name])
                else:
                    yield name, outcome_of(partial(unharmed, place, SURVIVED[name].make))
    for number, name in enumerate(name for name in names if name in ALONE):
        print(f"{name} ...", flush=True)
        own = folder / f"alone{number}"
        own.mkdir()
        yield name, outcome_of(partial(ALONE[name].make, bundle, rows, plan, own))


def outcome_of(make: Callable[[], Finding]) -> Outcome:
    """What a fault did; that the server is not there is a mishap."""
    try:
        return make()
    except Skipped as skipped:
        return skipped
    except (httpx.HTTPError, grpc.FutureTimeoutError, NotServing, OSError) as error:
        return Finding([], [repr(error)])


def expected(name: str) -> str:
    """The pass mark of a fault."""
    if name in SURVIVED:
        return f"{SURVIVED[name].expected}; {UNHARMED}"
    return ALONE[name].expected


def tell(name: str, outcome: Outcome, arguments: argparse.Namespace) -> bool:
    """Say what a fault did, and write it down; whether it passed."""
    if isinstance(outcome, Skipped):
        print(f"SKIPPED, neither passed nor failed: {name} {outcome}", flush=True)
        return False
    passed, found = not outcome.mishaps, "; ".join(outcome.figures)
    print(f"{'pass' if passed else 'FAIL'}: {name}\n  {found}", flush=True)
    for mishap in dict.fromkeys(outcome.mishaps):
        print(f"  {mishap}", flush=True)
    if not arguments.quick:
        again, test = f"make faults ONLY={name}", f"fault: {name.replace('-', ' ')}"
        write_row(Row(test, expected(name), found, passed, again), arguments.page)
    return passed


def parse(command: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=NAMES, action="append", help="instead of all faults")
    parser.add_argument(
        "--bundle", type=lambda name: Path(name).resolve(), default=ROOT / "bundles" / "digits"
    )
    parser.add_argument("--quick", action="store_true", help="short, and nothing is written down")
    parser.add_argument("--page", type=Path, default=PAGE, help="where the figures go")
    return parser.parse_args(command)


def main(command: list[str]) -> int:
    begun = perf_counter()
    arguments = parse(command)
    bundle = read_bundle(arguments.bundle)
    rows = checked_rows(bundle, POOL)
    plan = QUICK if arguments.quick else Plan()
    with tempfile.TemporaryDirectory() as folder:
        made = outcomes(arguments.only or NAMES, bundle, rows, plan, Path(folder))
        passed = [tell(name, outcome, arguments) for name, outcome in made]
    print(f"{sum(passed)} of {len(passed)} passed, {perf_counter() - begun:.0f} s")
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
