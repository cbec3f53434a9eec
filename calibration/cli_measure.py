"""`offramp plan` and `offramp evaluate`: of a bundle that is there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from calibration import cli_options as options
from calibration import cli_values as values
from calibration.cli_bundle import Directory
from calibration.cli_output import progress_bars
from models.errors import CalibrationError

if TYPE_CHECKING:
    from calibration.dataset import Dataset
    from calibration.evaluation import Evaluation, PromiseCheck
    from calibration.parts import Part
    from calibration.readers import DataOptions
    from models.manifest import Manifest

JsonOutput = Annotated[
    bool,
    typer.Option("--json", help="Print the same facts as JSON.", rich_help_panel=options.RUN),
]
KNOWN = {
    "fit": "heads were trained on it, which flatters the quality",
    "tune": "thresholds were proposed on it, which flatters the quality",
    "certify": "the policy was certified on it, it says nothing new of the promises",
    "test": "its figures are in the manifest already",
}


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
    from calibration.evaluation import answer_rows, evaluate_rows
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
        typer.echo(json.dumps(_document(read.manifest, found), indent=2))
    else:
        _show(read.manifest, found, data.name)


def open_rows(
    given: DataOptions, manifest: Manifest, split: str | None
) -> tuple[Dataset, np.ndarray]:
    """Open labelled rows of the bundle's kind, with their labels in the bundle's order.

    Returns
    -------
    The data, and which of its rows are taken, int (n,), ascending: all, or those of a split.

    Raises
    ------
    CalibrationError
        When rows or labels are not of the bundle's kind, or the split has no rows.
    """
    from calibration.readers import _open
    from calibration.splits import split_number

    part = _open(given.path, given)
    kind = manifest.preprocessing.kind
    if part.data.kind != kind:
        raise CalibrationError(
            f"{part.path} holds rows of kind {part.data.kind}, but the bundle {manifest.name} "
            f"reads {kind}: give rows of that kind, or name their column with --text-column or "
            "--image-column"
        )
    rows = np.arange(len(part.data))
    if split is not None:
        rows = np.flatnonzero(part.data.split == split_number(split, "--split"))
    if not len(rows):
        raise CalibrationError(
            f"{part.path} has no row of the split {split!r}: name the column of splits with "
            "--split-column, or leave --split out to take all rows"
        )
    return _in_order(part, manifest.labels, given.drop_absent_labels), rows


def _in_order(part: Part, names: tuple[str, ...], drop_absent: bool) -> Dataset:
    """Labels in the bundle's order; where label sets are listed, one in none has no positives."""
    from calibration.checks import listed

    data = part.data
    if data.names == tuple(map(str, range(len(names)))):
        return replace(data, names=names)
    absent = [name for column, name in enumerate(data.names) if not data.labels[:, column].any()]
    unknown = sorted(set(data.names).difference(names, absent if drop_absent else ()))
    missing = [] if part.open_names else sorted(set(names).difference(data.names))
    if unknown or missing:
        raise CalibrationError(
            f"the labels of {part.path} are not the bundle's: only the data has "
            f"{listed(unknown) or 'none'}, only the bundle has {listed(missing) or 'none'}; "
            "rename them, or name the label columns with --labels"
        )
    columns = [data.names.index(name) if name in data.names else -1 for name in names]
    with_none = np.pad(data.labels, ((0, 0), (0, 1)))  # the last column, -1, has no positives
    return replace(data, names=names, labels=with_none[:, columns])


def _document(manifest: Manifest, found: Evaluation) -> dict[str, Any]:
    about = {"name": manifest.name, "digest": manifest.digest}
    measured = found.measured.model_dump(mode="json", exclude={"curves"})
    return {**about, **asdict(found), "measured": measured}


def _sentences(manifest: Manifest, found: Evaluation) -> Iterator[str]:
    policy, reference = found.measured.policy, found.reference
    if reference == "last exit":
        yield (
            f"The bundle ends at {manifest.exits[-1].layer}: the full model is not in it, and the "
            "policy is compared with the bundle's last exit."
        )
    for name, quality in (
        ("micro-F1", policy.micro_f1),
        ("macro-F1", policy.macro_f1),
        ("mean average precision", policy.mean_average_precision),
    ):
        if quality is not None:
            change = quality.difference
            yield (
                f"{name}: {quality.policy:.4f} ({reference} {quality.full_depth:.4f}; difference "
                f"{change.low:+.4f} to {change.high:+.4f}, measured, not certified)"
            )
    yield (
        f"{policy.set_agreement:.2%} of label sets are the {reference}'s, and a row is "
        f"given {policy.computed_time:.0%} of the time of the model without exits "
        f"({policy.computed_time_single:.0%} at batch 1)."
    )
    if not manifest.certificate.certified:
        yield "Nothing is certified: the deployed policy runs every row to the end."
    yield from map(_check_sentence, found.promises)
    if found.skipped:
        yield f"Warning: {found.skipped} rows could not be answered and were left out."
    for name in found.known:
        yield f"Warning: these rows are, or hold, the bundle's {name} split: {KNOWN[name]}."


def _check_sentence(check: PromiseCheck) -> str:
    what = check.guarantee if check.label is None else f"label {check.label!r}"
    promise = f"{what} against the {check.against}: at most {check.epsilon:g} promised"
    if check.loss is None or check.p_value is None:
        why = "the full model is not in the bundle" if check.rows else "no row of these has it"
        return f"{promise}; cannot be checked, {why}."
    side = "within" if check.loss <= check.epsilon else "above"
    said = f"{promise}, {check.loss:.4f} found on {check.rows} rows, {side} it"
    if check.consistent:
        return f"{said}: consistent with the promise (p = {check.p_value:.2g})."
    return (
        f"{said}: evidence against the promise (p = {check.p_value:.2g}): calibrate again on rows "
        "like these."
    )


def _show(manifest: Manifest, found: Evaluation, source: str) -> None:
    from rich.console import Console

    from calibration.report import exit_table

    console = Console()
    table = exit_table(manifest.model_copy(update={"test": found.measured}))
    table.title = f"{manifest.name}: exits on {source} ({found.rows} rows)"
    console.print(table)
    for sentence in _sentences(manifest, found):
        console.print(sentence, markup=False)
