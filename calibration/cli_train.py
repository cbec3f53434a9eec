"""`offramp train`: a multi-exit network of ours, and its bundle."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from calibration import cli_options as options
from calibration import cli_values as values
from calibration.cli_output import progress_bars, show

NETWORK = "Network"


class ScheduleName(StrEnum):
    """`--schedule`."""

    mixed = "mixed"
    joint = "joint"
    backbone = "backbone"


def _network(help_text: str, **bounds: Any) -> Any:
    return typer.Option(help=help_text, rich_help_panel=NETWORK, **bounds)


def train(
    context: typer.Context,
    data: options.Data,
    out: Annotated[Path, typer.Option(help="Directory of the new bundle.")],
    architecture: Annotated[
        str | None,
        _network(
            "resnet, mlp, or the directory of a Hugging Face encoder; by default what fits the "
            "data."
        ),
    ] = None,
    epochs: Annotated[int | None, _network("Passes over the fit split.", min=1)] = None,
    learning_rate: Annotated[float | None, _network("At its peak.")] = None,
    train_batch: Annotated[int | None, _network("Rows per step.", min=1)] = None,
    aux_weight: Annotated[
        list[float] | None,
        _network("Weight of the early exits' losses: one for all, or one per exit (repeated)."),
    ] = None,
    schedule: Annotated[
        ScheduleName | None,
        _network(
            "mixed: the last exit first, then all together; joint: all from the start; backbone: "
            "the last exit, then the early heads on the frozen rest."
        ),
    ] = None,
    patience: Annotated[
        int | None, _network("Epochs without a better held-out loss before it stops.", min=1)
    ] = None,
    device: Annotated[options.DeviceName, _network("Where to train.")] = options.DeviceName.cpu,
    checkpoint: Annotated[Path | None, _network("File that is written after every epoch.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the checkpoint.", rich_help_panel=NETWORK)
    ] = False,
    image_size: Annotated[
        int | None, _network("Height and width that images are resized to.", min=16)
    ] = None,
    max_tokens: Annotated[int | None, _network("Longer texts are truncated to it.", min=3)] = None,
    tune: options.Tune = None,
    certify: options.Certify = None,
    test: options.Test = None,
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
    allow_duplicates: options.AllowDuplicates = False,
    guarantee: options.GuaranteeLoss = None,
    against: options.Against = None,
    epsilon: options.Epsilon = None,
    delta: options.Delta = 0.05,
    per_label: options.PerLabel = False,
    label_epsilon: options.LabelEpsilon = 0.1,
    score: options.Score = options.ScoreName.auto,
    freeze_labels: options.FreezeLabels = False,
    max_exits: options.MaxExits = 4,
    keep_depth: options.KeepDepth = False,
    name: Annotated[
        str | None, typer.Option(help="Name of the bundle; by default --out's last part.")
    ] = None,
    examples: options.Examples = 0,
    seed: options.Seed = 0,
    batch: options.Batch = 32,
    lanes: options.Lanes = None,
    force: options.Force = False,
    json_output: options.JsonOutput = False,
) -> None:
    """Train a network with several exits, and make its early-exit bundle.

    Every exit has a loss of its own (auxiliary losses); W-distances per exit and epoch are
    recorded in the manifest.
    """
    from calibration.architecture import ArchitectureOptions
    from calibration.train_build import build_from_files
    from calibration.trained import TrainOptions

    chosen = {
        "epochs": epochs,
        "peak_learning_rate": learning_rate,
        "batch": train_batch,
        "aux_weight": _weights(aux_weight),
        "schedule": schedule.value if schedule else None,
        "patience": patience,
        "device": device.value,
        "seed": seed,
    }
    training = TrainOptions(
        ArchitectureOptions(
            architecture,
            image_size=(image_size, image_size) if image_size else None,
            max_tokens=max_tokens,
        ),
        {key: value for key, value in chosen.items() if value is not None},
        checkpoint,
        resume,
        force,
        skip_bad,
        lanes,
    )
    given = context.params
    calibration = values.calibration_options(given, values.bundle_name(given))
    rows = values.data_options(given)
    with progress_bars() as progress:
        bundle = build_from_files(out, training, rows, calibration, progress, force)
    show(bundle, json_output)


def _weights(given: list[float] | None) -> float | tuple[float, ...] | None:
    if not given:
        return None
    return given[0] if len(given) == 1 else tuple(given)
