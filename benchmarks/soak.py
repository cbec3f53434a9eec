"""The service under load: what it answers, refuses, loses and keeps, for as long as it takes.

    python benchmarks/soak.py [--only NAME]... [--minutes 30] [--bundle DIR] [--page FILE]

Every test starts the service as `make serve` does, on the loopback, and loads it from this process
over all doors with answers that are checked. A test that does not meet its mark makes the exit
status 1. Figures go into a row of docs/reliability.md.
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import sys
import tempfile
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from reliability_page import PAGE, Row, write_row
from soak_ends import kills, terms
from soak_model import write_heavy_bundle
from soak_oracle import draw_pool
from soak_reload import reloads
from soak_site import Finding, Plan, Site
from soak_steady import overload, overload_doors, soak

from models.bundle import Bundle, read_bundle

ROOT = Path(__file__).resolve().parent.parent
DIGITS = "digits"
POOL = 1024
TESTS: dict[str, Callable[[Site, Plan], Coroutine[Any, Any, Finding]]] = {
    "soak": soak,
    "overload": overload,
    "overload-doors": overload_doors,
    "sigterm": terms,
    "reload": reloads,
    "sigkill": kills,
}
HEAVY = ("overload",)
"""Tests of a model whose stages, and not the doors, are what gives way."""
ONE_LANE = {"OFFRAMP_LANES": "1", "OFFRAMP_THREADS": "1"}
"""Of a heavy model: what is left of the machine is for the doors, and for the clients."""
BY_NAME = ("overload-doors",)
"""Tests that are run only when they are asked for: what is known not to meet its mark."""


def run(name: str, site: Site, plan: Plan, command: str, page: Path) -> bool:
    """Run one test, say what it found, and write it down; whether it passed."""
    finding = asyncio.run(TESTS[name](site, plan))
    passed = finding.correct and finding.in_time
    verdict = "pass" if passed else "FAIL"
    print(f"{verdict}: {finding.test}\n  expected: {finding.expected}\n  found: {finding.found}")
    write_row(Row(finding.test, finding.expected, finding.found, passed, command), page)
    return passed


def open_site(bundle: Bundle, folder: Path, settings: dict[str, str]) -> Site:
    """Everything that the tests need beside a server."""
    files, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(files, most), most))  # one for each connection
    rows, oracles = draw_pool([bundle], POOL, calm=True)
    return Site(bundle, rows, oracles, folder, settings)


def parse(command: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--only", choices=TESTS, action="append", help="instead of all but overload-doors"
    )
    parser.add_argument("--minutes", type=float, default=Plan.soak, help="of the soak")
    parser.add_argument("--bundle", type=Path, default=ROOT / "bundles" / DIGITS)
    parser.add_argument("--page", type=Path, default=PAGE, help="where the figures go")
    return parser.parse_args(command)


def main(command: list[str]) -> int:
    arguments = parse(command)
    plan = Plan.of(arguments.minutes)
    other = "" if arguments.bundle.name == DIGITS else f" BUNDLE=bundles/{arguments.bundle.name}"
    passed = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for test in arguments.only or [test for test in TESTS if test not in BY_NAME]:
            heavy = test in HEAVY
            bundle = (
                write_heavy_bundle(folder / "heavy") if heavy else read_bundle(arguments.bundle)
            )
            again = f"make soak ONLY={test} SOAK_MINUTES={arguments.minutes:g}{other}"
            site = open_site(bundle, folder, ONE_LANE if heavy else {})
            passed.append(run(test, site, plan, again, arguments.page))
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
