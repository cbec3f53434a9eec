"""Options that several commands share: typer annotations, and what is made of their values."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from calibration.features import PassOptions
    from calibration.guarantee import GuaranteeOptions
    from calibration.readers import DataOptions


class LossName(StrEnum):
    """`--guarantee`."""

    set_agreement = "set-agreement"
    sample_f1 = "sample-f1"


class AgainstName(StrEnum):
    """`--against`."""

    model = "model"
    labels = "labels"


DATA = "Data"
GUARANTEE = "Guarantee"
RUN = "Run"


def _data(help_text: str, *names: str) -> typer.models.OptionInfo:
    option: typer.models.OptionInfo = typer.Option(*names, help=help_text, rich_help_panel=DATA)
    return option


Data = Annotated[
    Path, _data("Rows with labels: .npz, .arff, .csv, .tsv, .jsonl, .parquet, or an image folder.")
]
Tune = Annotated[Path | None, _data("Rows of the tune split; without it, drawn from --data.")]
Certify = Annotated[Path | None, _data("Rows of the certify split; without it, drawn.")]
Test = Annotated[Path | None, _data("Rows of the test split; without it, drawn.")]
SplitColumn = Annotated[
    str | None, _data("Column that says fit, tune, certify or test (or train, dev, …).")
]
TextColumn = Annotated[str | None, _data("Column of texts; its number where there is no header.")]
ImageColumn = Annotated[str | None, _data("Column of image files, relative to the table.")]
LabelColumns = Annotated[
    list[str] | None,
    _data("Column of label sets, or (given several times) one 0/1 column per label.", "--labels"),
]
LabelSeparator = Annotated[str | None, _data("Between the labels of one cell; by default a comma.")]
LabelNames = Annotated[
    Path | None, _data("Text file with one label name per line, where the data holds numbers.")
]
IgnoredColumns = Annotated[
    list[str] | None, _data("Column that is no feature (given several times).", "--ignore")
]
Header = Annotated[
    bool | None, _data("Whether the first line names columns.", "--header/--no-header")
]
DropAbsentLabels = Annotated[
    bool, _data("Leave out labels that no row has.", "--drop-absent-labels")
]
SkipBad = Annotated[bool, _data("Leave out rows that cannot be read.", "--skip-bad")]

GuaranteeLoss = Annotated[
    LossName | None,
    typer.Option(
        "--guarantee",
        help="What may be lost: set-agreement (label sets that differ) or sample-f1. By default "
        "the first against the model, the second against labels.",
        rich_help_panel=GUARANTEE,
    ),
]
Against = Annotated[
    AgainstName | None,
    typer.Option(
        help="Towards whom it is counted; by default the model where it has a head of its own, "
        "else the labels (the regret to the full model).",
        rich_help_panel=GUARANTEE,
    ),
]
Epsilon = Annotated[
    float,
    typer.Option(help="How much the policy may lose per row.", rich_help_panel=GUARANTEE),
]
Delta = Annotated[
    float,
    typer.Option(help="Chance that the promise does not hold.", rich_help_panel=GUARANTEE),
]
MaxExits = Annotated[
    int, typer.Option(min=1, help="The most exits, the last included.", rich_help_panel=GUARANTEE)
]
KeepDepth = Annotated[
    bool,
    typer.Option(
        "--keep-depth",
        help="Keep the layers behind the one that is nearest to the labels.",
        rich_help_panel=GUARANTEE,
    ),
]

Seed = Annotated[
    int, typer.Option(min=0, help="Seed of splits, training, sub-samples.", rich_help_panel=RUN)
]
Force = Annotated[
    bool,
    typer.Option("--force", help="Replace a bundle that is there.", rich_help_panel=RUN),
]
JsonOutput = Annotated[
    bool,
    typer.Option("--json", help="Print the manifest as JSON.", rich_help_panel=RUN),
]
Batch = Annotated[int, typer.Option(min=1, help="Rows per run of the model.", rich_help_panel=RUN)]
Lanes = Annotated[
    int | None,
    typer.Option(min=1, help="Cores that run it; by default all.", rich_help_panel=RUN),
]
Cache = Annotated[
    Path | None,
    typer.Option(
        help="Folder of the feature cache; by default ~/.cache/offramp.", rich_help_panel=RUN
    ),
]


def data_options(given: Mapping[str, Any]) -> DataOptions:
    """From a command's parameters by name."""
    from calibration.readers import DataOptions

    return DataOptions(
        path=given["data"],
        tune=given["tune"],
        certify=given["certify"],
        test=given["test"],
        text_column=given["text_column"],
        image_column=given["image_column"],
        label_columns=tuple(given["labels"] or ()),
        label_separator=given["label_separator"],
        label_names=given["label_names"],
        ignored_columns=tuple(given["ignore"] or ()),
        split_column=given["split_column"],
        header=given["header"],
        drop_absent_labels=given["drop_absent_labels"],
    )


def guarantee_options(given: Mapping[str, Any]) -> GuaranteeOptions:
    """From a command's parameters by name."""
    from calibration.guarantee import GuaranteeOptions

    loss, against = given["guarantee"], given["against"]
    return GuaranteeOptions(
        loss.value if loss else None,
        against.value if against else None,
        given["epsilon"],
        given["delta"],
    )


def pass_options(given: Mapping[str, Any]) -> PassOptions:
    """From a command's parameters by name."""
    from calibration.features import PassOptions, default_cache
    from models.machine import available_cores

    return PassOptions(
        given.get("cache") or default_cache(),
        given["batch"],
        given["lanes"] or available_cores(),
        given["skip_bad"],
    )


def bundle_name(given: Mapping[str, Any]) -> str:
    """`--name`, by default the last part of `--out`."""
    return str(given["name"] or given["out"].resolve().name)
