"""The doors: the time that each adds on top of the engine, beside MLServer and bare BentoML.

    python benchmarks/protocol.py [--mlserver-python VENV/bin/python] [--out docs/results.md]
        [--quick]

Starts every server on the loopback, over a bundle whose stages cost nothing, and sends requests
over one connection each, one after the other. MLServer needs an environment of its own
(`python -m venv VENV; VENV/bin/pip install mlserver==1.7.1 'uvloop<0.22'`: its worker processes do
not start with later versions of uvloop); without one it is left out.
"""

from __future__ import annotations

import argparse
import platform
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from pathlib import Path
from time import perf_counter

from engine_table import Table, Target, target_table
from protocol_bundle import LABELS, write_free_bundle
from protocol_cores import Cores, divided_cores, in_words, pin
from protocol_doors import BENTOML, OURS, ROW_SHAPES, all_doors
from protocol_engine import BareEngines
from protocol_rounds import QUICK, Plan, Times, measure
from protocol_servers import Server, bare_bentoml, mlserver, offramp
from protocol_tables import added_table, door_targets, round_trip_table
from result_page import mlserver_in_words, short, write_section

from models.bundle import Bundle
from models.machine import machine_name

HEADING = "## The doors, measured"
MLSERVERS: dict[str, dict[str, object]] = {
    "MLServer": {},
    "MLServer, one process": {"parallel_workers": 0, "debug": False},
}
"""Its settings: as it comes, and without worker processes and debugging output."""


@contextmanager
def running_servers(
    folder: Path, bundles: dict[str, Bundle], mlserver_python: Path | None
) -> Iterator[dict[str, Server]]:
    """All servers, by the names of `Door.connect`."""
    with ExitStack() as stack:
        servers = {
            f"{OURS} {size}": stack.enter_context(offramp(bundle, folder))
            for size, bundle in bundles.items()
        }
        servers[BENTOML] = stack.enter_context(bare_bentoml(folder, len(LABELS)))
        if mlserver_python:
            for number, (name, settings) in enumerate(MLSERVERS.items()):
                place = folder / f"mlserver{number}"
                place.mkdir()
                peer = mlserver(mlserver_python, place, list(ROW_SHAPES), len(LABELS), settings)
                servers[name] = stack.enter_context(peer)
        yield servers


def measured(cores: Cores, plan: Plan, mlserver_python: Path | None) -> tuple[Times, list[str]]:
    """The times, and the names of what was compared."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bundles = {
            size: write_free_bundle(folder / "bundles" / size, size, shape)
            for size, shape in ROW_SHAPES.items()
        }
        pin(cores.servers)  # which the servers inherit
        with (
            BareEngines(bundles, cores.servers) as engines,
            running_servers(folder, bundles, mlserver_python) as servers,
        ):
            pin(cores.client)
            names = [OURS, BENTOML, *(name for name in MLSERVERS if name in servers)]
            return measure(all_doors(), names, servers, engines, plan), names


def tables(times: Times, names: Sequence[str]) -> tuple[list[Table], list[Target]]:
    doors = all_doors()
    mlservers = [name for name in names if name in MLSERVERS]
    return (
        [added_table(times, doors, names, mlservers), round_trip_table(times, doors, names)],
        door_targets(times, doors, mlservers),
    )


def heading(arguments: argparse.Namespace, cores: Cores, plan: Plan) -> str:
    quick = " Quick: too short to quote." if arguments.quick else ""
    return f"""{HEADING}

    python benchmarks/protocol.py {short(arguments.command)}

* {machine_name()}; the client on {in_words(cores.client)}, the servers on {in_words(cores.servers)}
* Python {platform.python_version()}, BentoML {version("bentoml")}, grpcio {version("grpcio")}; \
{mlserver_in_words(arguments.mlserver_python)}
* All servers are up, one works at a time, all as they come: MLServer and BentoML with their \
default logging and tracing, offramp, which is built on BentoML, with its access log and its spans \
switched off in `service/app.py`; MLServer also in one process (`parallel_workers` 0, `debug` \
false). One row a request, one connection, one request after the other. The client is a plain \
socket for HTTP and a channel for gRPC, with bytes prepared before.
* OIP is asked for `probabilities` alone, of four labels; ours and MLServer get the same bytes, \
but for binary tensors over REST, which MLServer does not know: it gets base64 in JSON. BentoML \
gets `/predict`'s document as JSON, and binary data as a file; it has no gRPC.
* {plan.rounds} rounds, in which the servers take turns, {plan.requests} requests of each door a \
round; figures are medians of the rounds' medians, with quartiles in brackets.{quick}
"""


def parse(command: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mlserver-python", type=Path, help="python of MLServer's environment")
    parser.add_argument("--out", type=Path, help="page whose section on the doors is replaced")
    parser.add_argument("--quick", action="store_true", help="few requests, to see that it runs")
    arguments = parser.parse_args(command)
    arguments.command = command
    return arguments


def main(command: list[str]) -> None:
    begun = perf_counter()
    arguments = parse(command)
    plan, cores = QUICK if arguments.quick else Plan(), divided_cores()
    page = heading(arguments, cores, plan)
    print(page, flush=True)
    found, targets = tables(*measured(cores, plan, arguments.mlserver_python))
    found = [target_table(targets), *found]
    for table in found:
        print(table.plain())
    print(f"took {perf_counter() - begun:.0f} s")
    if arguments.out:
        write_section(arguments.out, HEADING, [page, *(table.markdown() for table in found)])


if __name__ == "__main__":
    main(sys.argv[1:])
