"""The engine: throughput, latency, memory and overhead, each beside its target.

    python benchmarks/engine.py [--bundle bundles/digits] [--texts DATA/goemotions
        --encoder-bundle DIR] [--device cpu|cuda] [--out docs/results.md] [--quick]

Always measures an encoder: the bundle of texts, or a random one of MiniLM's shape. Without bundles
it needs numpy, onnx, onnxruntime and prometheus_client only. All variants of a comparison take
turns in every round.
"""

from __future__ import annotations

import argparse
import platform
import sys
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter

from engine_case import Case, digits_case, random_case, text_case
from engine_latency import measure_hard_rows, measure_latency
from engine_memory import measure_memory
from engine_overhead import measure_overhead
from engine_saturated import REQUEST_ROWS, Saturation
from engine_setup import QUICK, Plan, open_stand
from engine_table import Table, Target, target_table
from result_page import with_section

from models.machine import machine_name

MEMORY_SECONDS = 90.0  # at most; where it would take longer, a narrow encoder stands in
NARROW = {"hidden": 48, "heads": 2, "inner": 96, "head_width": 32, "vocabulary": 1000}
ROW_STAGES = 10_000
HEADING = "## The engine, measured"


class Report:
    """Prints tables as they come, and keeps them."""

    def __init__(self) -> None:
        self.tables: list[Table] = []
        self.targets: list[Target] = []

    def add(self, table: Table, *targets: Target) -> None:
        """One more table."""
        print(table.plain(), flush=True)
        self.tables.append(table)
        self.targets += targets

    def markdown(self, heading: str) -> str:
        """The whole page."""
        tables = [target_table(self.targets), *self.tables]
        return "\n".join([heading, *(table.markdown() for table in tables)])


def measure_case(
    case: Case, arguments: argparse.Namespace, plan: Plan, report: Report
) -> tuple[float, bool]:
    """Everything but memory where it would take too long; rows per second, and whether it did."""
    stand = open_stand(case, plan, arguments.device, arguments.lanes)
    saturation = Saturation(stand, plan)
    saturation.measure()
    report.add(saturation.table(), *_named(case, saturation.targets()))
    capacity = saturation.capacity()
    report.add(measure_latency(stand, plan, capacity))
    table, targets = measure_hard_rows(stand, plan, capacity, saturation.stage_one())
    report.add(table, *_named(case, targets))
    rate = float(saturation.values("rebatch", REQUEST_ROWS, "rate").mean())
    fits = 1.1 * plan.memory < MEMORY_SECONDS * rate
    if fits:
        table, target = measure_memory(stand, plan)
        report.add(table, *_named(case, [target]))
    stand.close()
    return rate, fits


def measure_narrow_memory(arguments: argparse.Namespace, plan: Plan, report: Report) -> None:
    case = random_case(plan.pool, "narrow random encoder", **NARROW)
    stand = open_stand(case, plan, arguments.device, arguments.lanes)
    table, target = measure_memory(stand, plan)
    report.add(table, *_named(case, [target]))
    stand.close()


def cases(arguments: argparse.Namespace, plan: Plan) -> Iterator[Case]:
    if arguments.texts:
        yield text_case(arguments.encoder_bundle, arguments.texts, plan.pool)
    else:
        yield random_case(plan.pool)
    if arguments.bundle:
        yield digits_case(arguments.bundle, 2 * plan.pool)


def heading(arguments: argparse.Namespace, plan: Plan) -> str:
    import numpy
    import onnxruntime

    quick = " Quick: too short to quote." if arguments.quick else ""
    return f"""{HEADING}

    python benchmarks/engine.py {" ".join(map(_short, arguments.command))}

* {machine_name()}; stages on {arguments.device}
* Python {platform.python_version()}, NumPy {numpy.__version__}, ONNX Runtime \
{onnxruntime.__version__}
* Engine and load share one process. {plan.rounds} rounds, in which all variants of a table take \
turns; figures are medians of the rounds, with quartiles in brackets.{quick}
"""


def _short(word: str) -> str:
    """A path of this machine by its last part."""
    return Path(word).name if Path(word).is_absolute() else word


def parse(command: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", type=Path, help="a bundle of the embedded digits")
    parser.add_argument("--texts", type=Path, help="a file of texts, or a directory with test.tsv")
    parser.add_argument("--encoder-bundle", type=Path, help="the bundle that takes the texts")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--lanes", type=lambda x: x if x == "auto" else int(x), default="auto")
    parser.add_argument("--out", type=Path, help="page whose section on the engine is replaced")
    parser.add_argument("--quick", action="store_true", help="short windows, to see that it runs")
    arguments = parser.parse_args(command)
    if bool(arguments.texts) != bool(arguments.encoder_bundle):
        parser.error("--texts and --encoder-bundle go together")
    arguments.command = command
    return arguments


def main(command: list[str]) -> None:
    begun = perf_counter()
    arguments = parse(command)
    plan = QUICK if arguments.quick else Plan()
    report = Report()
    page = heading(arguments, plan)
    print(page)
    table, targets = measure_overhead(plan.rounds, ROW_STAGES)
    report.add(table, *targets)
    fits = [measure_case(case, arguments, plan, report)[1] for case in cases(arguments, plan)]
    if not any(fits):
        measure_narrow_memory(arguments, plan, report)
    print(target_table(report.targets).plain())
    print(f"took {perf_counter() - begun:.0f} s")
    if arguments.out:
        before = arguments.out.read_text("utf-8") if arguments.out.exists() else ""
        section = report.markdown(page)
        arguments.out.write_text(with_section(before, HEADING, section), "utf-8")


def _named(case: Case, targets: list[Target]) -> list[Target]:
    return [Target(f"{case.name}: {t.what}", t.figure, t.asked, t.met) for t in targets]


if __name__ == "__main__":
    main(sys.argv[1:])
