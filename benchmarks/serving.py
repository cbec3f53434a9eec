"""Side by side: offramp and what people use today, as servers under the same load.

    python benchmarks/serving.py [--bundle bundles/digits] [--mlserver-python VENV/bin/python]
        [--encoder-bundle DIR --nearest-bundle DIR --texts DIR] [--table-bundle DIR --table FILE]
        [--out docs/results.md] [--picture docs/side-by-side.png] [--quick]

Every contender is a server of its own on the loopback, all of them on the same cores, the client
on another; one works at a time. GoEmotions needs two bundles of the same encoder, `offramp
calibrate --against model` and the same `--against labels`: the second says where a model would be
cut off at best. MLServer needs an environment of its own (`make .venv-mlserver/.installed`).
The exit status is 1 where the certified policy answers fewer rows than the full model.
"""

from __future__ import annotations

import argparse
import platform
import sys
import tempfile
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from time import perf_counter

import numpy as np
import onnxruntime
import psutil
from engine_table import Table, Target, target_table
from protocol_cores import Cores, divided_cores, in_words
from result_page import mlserver_in_words, short, write_section
from serving_case import Case, digits_case, table_case, text_case
from serving_plan import QUICK, Plan
from serving_rounds import PEER_KEY, Outcome, measure
from serving_tables import OURS, ratio, serving_tables, serving_targets

from models.errors import OfframpError
from models.machine import machine_name

HEADING = "## Side by side"
SWAPPED = 2**20
"""Bytes that may be swapped during a run."""


def cases(arguments: argparse.Namespace, plan: Plan) -> Iterator[Case]:
    if arguments.encoder_bundle:
        yield text_case(
            arguments.encoder_bundle, arguments.nearest_bundle, arguments.texts, plan.rows
        )
    yield digits_case(arguments.bundle, plan.rows)
    if arguments.table_bundle:
        yield table_case(arguments.table_bundle, arguments.table, plan.rows)


def measured(arguments: argparse.Namespace, cores: Cores, plan: Plan) -> list[Outcome]:
    outcomes = []
    before = psutil.swap_memory().sout
    for case in cases(arguments, plan):
        with tempfile.TemporaryDirectory() as name:
            peer, device = arguments.mlserver_python, arguments.device
            outcomes.append(measure(case, plan, cores, Path(name), peer, device))
    if psutil.swap_memory().sout - before > SWAPPED:
        raise SystemExit("the machine swapped: run it again with more memory free")
    return outcomes


def heading(arguments: argparse.Namespace, cores: Cores, plan: Plan) -> str:
    quick = " Quick: too short to quote." if arguments.quick else ""
    return f"""{HEADING}

    python benchmarks/serving.py {short(arguments.command)}

* {machine_name()}; the client on {in_words(cores.client)}, every server on \
{in_words(cores.servers)}; all are up, one works at a time; models on {arguments.device}
* Python {platform.python_version()}, ONNX Runtime {onnxruntime.__version__}, \
BentoML {version("bentoml")}, PyTorch {version("torch")}; \
{mlserver_in_words(arguments.mlserver_python)}
* (a), (b) offramp as `make serve` starts it, with its monitor; (c) a BentoML service with the \
full model in ONNX Runtime and BentoML's adaptive batching; (d) the same with a model that is cut \
off, for all rows, at the layer that offramp's profile found nearest to the labels, or before the \
last where that is the last; (e) MLServer with the full model and its adaptive batching, in one \
process without debugging output; (f) BentoML with the bundle's own stages in eager PyTorch, a \
batch going through them until its last row has left. The settings of (c), (d) and (e) are those \
of a sweep with the most rows per second, single and several a request; (f) has those of (c); \
(c') is (c) with the setting of the lowest latency, where that is another.
* {plan.rounds} rounds of open loops, then {plan.rounds} of saturating load; in each all take \
turns; figures are medians of the rounds, with quartiles in brackets; ratios are taken within a \
round.{quick}
"""


def parse(command: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--bundle", type=Path, default=Path("bundles/digits"))
    parser.add_argument("--encoder-bundle", type=Path, help="GoEmotions, held to the model")
    parser.add_argument("--nearest-bundle", type=Path, help="GoEmotions, held to the labels")
    parser.add_argument("--texts", type=Path, help="directory with test.tsv and labels.txt")
    parser.add_argument("--table-bundle", type=Path, help="where early exit does not pay")
    parser.add_argument("--table", type=Path, help="its rows, with labels")
    parser.add_argument("--mlserver-python", type=Path, help="python of MLServer's environment")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="of all models")
    parser.add_argument("--out", type=Path, help="page whose section is replaced")
    parser.add_argument("--picture", type=Path, help="PNG of the comparison")
    parser.add_argument("--quick", action="store_true", help="short, to see that all of it runs")
    arguments = parser.parse_args(command)
    texts = (arguments.encoder_bundle, arguments.nearest_bundle, arguments.texts)
    if any(texts) and not all(texts):
        parser.error("--encoder-bundle, --nearest-bundle and --texts go together")
    if bool(arguments.table_bundle) != bool(arguments.table):
        parser.error("--table-bundle and --table go together")
    arguments.command = command
    return arguments


def tables(outcomes: Sequence[Outcome], plan: Plan) -> tuple[list[Table], list[Target]]:
    found = [table for outcome in outcomes for table in serving_tables(outcome, plan.size)]
    return found, [target for outcome in outcomes for target in serving_targets(outcome)]


def beats(outcome: Outcome) -> bool:
    """Whether the certified policy answers more rows than the full model of a peer."""
    by_key = outcome.measured
    found = float(np.median(ratio(by_key[OURS, "JSON"], by_key[PEER_KEY, "JSON"])))
    print(f"{outcome.case.name}: (a) answers {found:.2f} times the rows of (c)")
    return found > 1


def main(command: list[str]) -> int:
    begun = perf_counter()
    arguments = parse(command)
    plan, cores = QUICK if arguments.quick else Plan(), divided_cores()
    page = heading(arguments, cores, plan)
    print(page, flush=True)
    try:
        outcomes = measured(arguments, cores, plan)
    except OfframpError as error:  # a bundle or data that is not there
        raise SystemExit(str(error)) from None
    found, targets = tables(outcomes, plan)
    found = [target_table(targets), *found]
    for table in found:
        print(table.plain())
    if arguments.picture:
        from serving_picture import draw

        draw([outcome for outcome in outcomes if outcome.case.is_whole], arguments.picture)
    if arguments.out:
        write_section(arguments.out, HEADING, [page, *(table.markdown() for table in found)])
    print(f"took {perf_counter() - begun:.0f} s")
    # of cases where early exit does not pay nothing is expected
    return 0 if all([beats(outcome) for outcome in outcomes if outcome.case.is_whole]) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
