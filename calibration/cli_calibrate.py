"""`offramp calibrate` and `offramp profile`: of a model that somebody trained."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from calibration import cli_options as options
from calibration import cli_values as values
from calibration.cli_output import progress_bars, show, show_profile

if TYPE_CHECKING:
    from calibration.build import ModelOptions
    from calibration.options import CalibrationOptions


def calibrate(
    context: typer.Context,
    model: options.Model,
    data: options.Data,
    out: Annotated[Path, typer.Option(help="Directory of the new bundle.")],
    weights: options.Weights = None,
    output: options.Output = None,
    head: options.Head = None,
    teacher: options.Teacher = None,
    preprocessing: options.Preprocessing = None,
    tokenizer: options.Tokenizer = None,
    max_tokens: options.MaxTokens = None,
    max_carry: options.MaxCarry = 3,
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
    head_hidden: options.HeadHidden = 256,
    distill: options.Distill = 0.5,
    name: Annotated[
        str | None, typer.Option(help="Name of the bundle; by default --out's last part.")
    ] = None,
    examples: options.Examples = 0,
    seed: options.Seed = 0,
    batch: options.Batch = 32,
    lanes: options.Lanes = None,
    cache: options.Cache = None,
    device: options.Device = options.DeviceName.cpu,
    force: options.Force = False,
    json_output: options.JsonOutput = False,
) -> None:
    """Turn a trained multi-label classifier into an early-exit bundle.

    Finds where the model may be cut, trains a head at every candidate layer from one pass over
    the data, measures W-distances, chooses exits and thresholds, and certifies what they may lose.
    """
    from calibration.build import build_bundle

    given = context.params
    chosen = _calibration(given, values.bundle_name(given))
    with progress_bars() as progress:
        bundle = build_bundle(
            out, _model(given), values.data_options(given), chosen, progress, force
        )
    show(bundle, json_output)


def profile(
    context: typer.Context,
    model: options.Model,
    data: options.Data,
    weights: options.Weights = None,
    output: options.Output = None,
    head: options.Head = None,
    teacher: options.Teacher = None,
    preprocessing: options.Preprocessing = None,
    tokenizer: options.Tokenizer = None,
    max_tokens: options.MaxTokens = None,
    max_carry: options.MaxCarry = 3,
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
    head_hidden: options.HeadHidden = 256,
    distill: options.Distill = 0.5,
    profile_seeds: Annotated[
        int, typer.Option("--seeds", min=0, help="Train the heads with this many other seeds too.")
    ] = 0,
    seed: options.Seed = 0,
    batch: options.Batch = 32,
    lanes: options.Lanes = None,
    cache: options.Cache = None,
    device: options.Device = options.DeviceName.cpu,
    json_output: options.JsonOutput = False,
) -> None:
    """Measure every candidate layer of a model, and stop there: no bundle is made.

    W-distances to the teacher and to the labels with intervals and noise floor, quality, time, and
    how stable the distances are, on the tune split.
    """
    from calibration.build import profile_source

    given = context.params
    chosen = _calibration(given, Path(model).name)
    with progress_bars() as progress:
        measured, warnings = profile_source(
            _model(given), values.data_options(given), chosen, progress
        )
    show_profile(measured, warnings, json_output)


def _calibration(given: Mapping[str, Any], name: str) -> CalibrationOptions:
    from calibration.head_options import HeadOptions

    heads = HeadOptions(hidden=given["head_hidden"], distill=given["distill"], seed=given["seed"])
    return values.calibration_options(given, name, heads)


def _model(given: Mapping[str, Any]) -> ModelOptions:
    from calibration.build import ModelOptions
    from calibration.input_choice import InputOptions

    inputs = InputOptions(given["preprocessing"], given["tokenizer"], given["max_tokens"])
    return ModelOptions(
        given["model"],
        given["weights"],
        given["output"],
        given["head"],
        given["teacher"],
        given["max_carry"],
        inputs,
    )
