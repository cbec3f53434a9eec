"""`offramp simulate`: what a load does to a bundle's service, and how many devices it needs."""

from __future__ import annotations

import json
from collections.abc import Callable
from enum import StrEnum
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from calibration.cli_measure import JsonOutput
from models.errors import InvalidInput

if TYPE_CHECKING:
    from cli.simulation import Question
    from cli.stage_costs import StageCosts

Number = TypeVar("Number", int, float)

LOAD, SERVICE, RUN = "Load", "Service", "Run"


class ModeName(StrEnum):
    """`--mode`."""

    rebatch = "rebatch"
    compact = "compact"
    monolith = "monolith"


def simulate(
    rate: Annotated[float, typer.Option(help="Rows per second.", rich_help_panel=LOAD)],
    bundle: Annotated[
        Path | None,
        typer.Argument(help="Directory of the bundle; not needed with --costs and --exit-mix."),
    ] = None,
    rows_per_request: Annotated[
        str,
        typer.Option(
            help="Rows of a request: a number, or several, such as 1,1,8, of which each request "
            "draws one.",
            rich_help_panel=LOAD,
        ),
    ] = "1",
    exit_mix: Annotated[
        str | None,
        typer.Option(
            help="Shares of the rows that leave at each exit, such as .74,.18,.08; by default as "
            "on the test split.",
            rich_help_panel=LOAD,
        ),
    ] = None,
    deadline_ms: Annotated[
        float | None, typer.Option(help="Deadline of every request.", rich_help_panel=LOAD)
    ] = None,
    devices: Annotated[
        int | None,
        typer.Option(
            help="Lanes that run stages; by default as many as --slo needs.",
            rich_help_panel=SERVICE,
        ),
    ] = None,
    slo: Annotated[
        float | None,
        typer.Option(
            help="Milliseconds within which 99 % of the requests are to be answered.",
            rich_help_panel=SERVICE,
        ),
    ] = None,
    costs: Annotated[
        Path | None,
        typer.Option(
            help="JSON file with machine, batch_rows, stage_milliseconds [stage][batch] and, if "
            "known, whole_milliseconds; by default what calibration measured.",
            rich_help_panel=SERVICE,
        ),
    ] = None,
    mode: Annotated[
        ModeName, typer.Option(help="Compared with monolith.", rich_help_panel=SERVICE)
    ] = ModeName.rebatch,
    max_queue_rows: Annotated[
        int, typer.Option(help="As OFFRAMP_MAX_QUEUE_ROWS.", rich_help_panel=SERVICE)
    ] = 4096,
    max_wait_ms: Annotated[
        float, typer.Option(help="As OFFRAMP_MAX_WAIT_MS.", rich_help_panel=SERVICE)
    ] = 30_000,
    seconds: Annotated[
        float | None,
        typer.Option(
            help="Span to simulate; by default that of 50,000 rows, from 2 s to an hour.",
            rich_help_panel=RUN,
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the arrivals.", rich_help_panel=RUN)] = 0,
    json_output: JsonOutput = False,
) -> None:
    """What does a load do to the service, and how many devices does it need?

    The service's own scheduler on a virtual clock: Poisson arrivals, measured or given costs of the
    stages, and beside it the model without exits. Without --devices: as many as --slo needs.
    """
    from cli.simulation import Question
    from service.simulated_load import Load
    from service.simulator import Bounds

    name, stage_costs, exits, mix = _planned(bundle, costs, exit_mix)
    load = Load(rate, mix, _numbers("rows per request", rows_per_request, int))
    question = Question(
        name=name,
        costs=stage_costs,
        load=load,
        exits=exits,
        mode=mode.value,
        devices=devices,
        slo=inf if slo is None else slo,
        bounds=Bounds(max_queue_rows, max_wait_ms, inf if deadline_ms is None else deadline_ms),
        seconds=load.usual_seconds if seconds is None else seconds,
        seed=seed,
    )
    _show(question, json_output)


def _planned(
    bundle: Path | None, costs: Path | None, exit_mix: str | None
) -> tuple[str, StageCosts, tuple[int, ...], tuple[float, ...]]:
    """Name, costs, numbers of the exits, and shares of the rows that leave there."""
    from cli.stage_costs import read_costs, recorded_costs
    from models.bundle import read_bundle

    given = read_costs(costs) if costs else None
    mix = _numbers("exit mix", exit_mix, float) if exit_mix is not None else None
    if bundle is None:
        if costs is None or given is None or mix is None:
            raise InvalidInput(
                "found no bundle: give the directory of one, or both --costs and --exit-mix"
            )
        return costs.stem, given, tuple(range(1, given.stages + 1)), mix
    manifest = read_bundle(bundle).manifest
    if given is not None and given.stages != manifest.depth:
        raise InvalidInput(
            f"costs: found {given.stages} stages in {given.machine}, expected {manifest.depth}, "
            "one per exit of the bundle; without the bundle, give --exit-mix of the same stages"
        )
    exits = tuple(exit_.number for exit_ in manifest.exits)
    recorded = tuple(exit_.share_leaving for exit_ in manifest.test.exits)
    return manifest.name, given or recorded_costs(manifest.costs), exits, mix or recorded


def _numbers(name: str, text: str, kind: type[Number]) -> tuple[Number, ...]:
    try:
        return tuple(kind(part) for part in text.split(","))
    except ValueError:
        raise InvalidInput(
            f"{name}: found {text!r}, expected numbers with commas between them, such as "
            f"{'1,1,8' if kind is int else '.74,.18,.08'}"
        ) from None


def _show(question: Question, json_output: bool) -> None:
    from rich.console import Console

    from calibration.cli_output import progress_bars
    from cli.simulation import answer
    from cli.simulation_report import counted, document, sentences, table

    with progress_bars() as progress:

        def bar(mode: str, devices: int, rows: int) -> Callable[[int], None]:
            task = progress.add_task(f"{mode}, {counted(devices)}", total=rows)
            return lambda done: progress.update(task, completed=done)

        sides = answer(question, bar)
    if json_output:
        typer.echo(json.dumps(document(question, sides), indent=2))
        return
    console = Console()
    console.print(table(question, sides))
    for sentence in sentences(question, sides):
        console.print(sentence, markup=False)
