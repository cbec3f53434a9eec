"""`offramp plan` and `offramp evaluate`: of a bundle that is there."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from calibration import cli_options as options
from calibration import cli_values as values
from calibration.cli_bundle import Directory
from calibration.cli_output import progress_bars

JsonOutput = Annotated[
    bool,
    typer.Option("--json", help="Print the same facts as JSON.", rich_help_panel=options.RUN),
]


def plan(
    bundle: Directory,
    remeasure: Annotated[
        bool, typer.Option("--remeasure", help="Measure the costs on this machine first.")
    ] = False,
    json_output: JsonOutput = False,
) -> None:
    """Which exits pay on this machine, and is early exit worth it at all?

    By the recorded costs of the machine that calibrated, or by those of this one, and by where
    rows left on the test split.
    """
    from rich.console import Console

    from calibration.plan import remeasured
    from calibration.plan_report import plan_document, plan_of, plan_sentences, plan_table
    from models.bundle import read_bundle

    read = read_bundle(bundle)
    costs = None
    if remeasure:
        with progress_bars() as progress:
            costs = remeasured(read, progress)
    planned = plan_of(read.manifest, costs)
    if json_output:
        typer.echo(json.dumps(plan_document(planned), indent=2))
        return
    console = Console()
    console.print(plan_table(planned))
    for sentence in plan_sentences(planned):
        console.print(sentence, markup=False)


def evaluate(
    context: typer.Context,
    bundle: Directory,
    data: options.Data,
    split: Annotated[
        str | None,
        typer.Option(
            help="Take only the rows of this split, by --split-column; by default all rows.",
            rich_help_panel=options.DATA,
        ),
    ] = None,
    split_column: options.SplitColumn = None,
    text_column: options.TextColumn = None,
    image_column: options.ImageColumn = None,
    labels: options.LabelColumns = None,
    label_separator: options.LabelSeparator = None,
    label_names: options.LabelNames = None,
    ignore: options.IgnoredColumns = None,
    header: options.Header = None,
    drop_absent_labels: options.DropAbsentLabels = False,
    skip_bad: options.SkipBad = False,
    batch: options.Batch = 32,
    lanes: options.Lanes = None,
    json_output: JsonOutput = False,
) -> None:
    """Measure a bundle again, on labelled rows that it has not seen.

    Exits and quality as in the manifest, and for every promise of the certificate whether these
    rows are evidence that it is broken.
    """
    from rich.console import Console

    from calibration.evaluation import evaluate_rows
    from calibration.evaluation_report import (
        evaluation_document,
        evaluation_sentences,
        evaluation_table,
    )
    from calibration.evaluation_rows import answer_rows, open_rows
    from models.bundle import read_bundle
    from models.machine import available_cores

    read = read_bundle(bundle)
    one_file = {**context.params, "tune": None, "certify": None, "test": None}
    rows, chosen = open_rows(values.data_options(one_file), read.manifest, split)
    with progress_bars() as progress:
        cores = lanes or available_cores()
        answered = answer_rows(read, rows, chosen, progress, batch, cores, skip_bad)
        task = progress.add_task("measure", total=None)
        found = evaluate_rows(read.manifest, rows, answered)
        progress.update(task, total=1, completed=1)
    if json_output:
        typer.echo(json.dumps(evaluation_document(read.manifest, found), indent=2))
        return
    console = Console()
    console.print(evaluation_table(read.manifest, found, data.name))
    for sentence in evaluation_sentences(read.manifest, found):
        console.print(sentence, markup=False)
