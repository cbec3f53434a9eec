"""`offramp calibrate`: a bundle of a model that somebody trained."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from calibration import cli_options as options
from calibration.cli_output import progress_bars, show

MODEL = "Model"


def calibrate(
    context: typer.Context,
    model: Annotated[
        str,
        typer.Option(
            help="An ONNX file, a Hugging Face directory, or package.module:factory.",
            rich_help_panel=MODEL,
        ),
    ],
    data: options.Data,
    out: Annotated[Path, typer.Option(help="Directory of the new bundle.")],
    weights: Annotated[
        Path | None,
        typer.Option(
            help="Weights of the factory's module: .safetensors, or a torch file of tensors only.",
            rich_help_panel=MODEL,
        ),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(help="Name of the output with the logits.", rich_help_panel=MODEL),
    ] = None,
    head: Annotated[
        bool | None,
        typer.Option(
            "--head/--no-head",
            help="Whether the model's output is logits over the labels, or its last layer gets a "
            "trained head like the others; by default found out.",
            rich_help_panel=MODEL,
        ),
    ] = None,
    teacher: Annotated[
        str | None,
        typer.Option(
            help="Whose probabilities the early exits learn from and are measured against: an .npy "
            "file (rows, labels), or another model; by default the model itself.",
            rich_help_panel=MODEL,
        ),
    ] = None,
    preprocessing: Annotated[
        Path | None,
        typer.Option(help="JSON file that says how rows are encoded.", rich_help_panel=MODEL),
    ] = None,
    tokenizer: Annotated[
        Path | None, typer.Option(help="tokenizer.json of the model.", rich_help_panel=MODEL)
    ] = None,
    max_tokens: Annotated[
        int | None,
        typer.Option(min=3, help="Longer texts are truncated to it.", rich_help_panel=MODEL),
    ] = None,
    max_carry: Annotated[
        int, typer.Option(min=1, help="The most tensors at a cut.", rich_help_panel=MODEL)
    ] = 3,
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
    guarantee: options.GuaranteeLoss = None,
    against: options.Against = None,
    epsilon: options.Epsilon = 0.02,
    delta: options.Delta = 0.05,
    max_exits: options.MaxExits = 4,
    keep_depth: options.KeepDepth = False,
    head_hidden: Annotated[
        int,
        typer.Option(
            min=0, help="Hidden units of a trained head; 0: linear.", rich_help_panel="Heads"
        ),
    ] = 256,
    distill: Annotated[
        float,
        typer.Option(
            min=0, max=1, help="Weight of the teacher beside the labels.", rich_help_panel="Heads"
        ),
    ] = 0.5,
    name: Annotated[
        str | None, typer.Option(help="Name of the bundle; by default --out's last part.")
    ] = None,
    seed: options.Seed = 0,
    batch: options.Batch = 32,
    lanes: options.Lanes = None,
    cache: options.Cache = None,
    force: options.Force = False,
    json_output: options.JsonOutput = False,
) -> None:
    """Turn a trained multi-label classifier into an early-exit bundle.

    Finds where the model may be cut, trains a head at every candidate layer from one pass over
    the data, measures W-distances, chooses exits and thresholds, and certifies what they may lose.
    """
    from calibration.build import ModelOptions, build_bundle
    from calibration.head_options import HeadOptions
    from calibration.input_choice import InputOptions
    from calibration.options import CalibrationOptions

    given = context.params
    calibration = CalibrationOptions(
        name=options.bundle_name(given),
        features=options.pass_options(given),
        guarantee=options.guarantee_options(given),
        heads=HeadOptions(hidden=head_hidden, distill=distill, seed=seed),
        max_exits=max_exits,
        keep_depth=keep_depth,
        seed=seed,
    )
    inputs = InputOptions(preprocessing, tokenizer, max_tokens)
    source = ModelOptions(model, weights, output, head, teacher, max_carry, inputs)
    rows = options.data_options(given)
    with progress_bars() as progress:
        bundle = build_bundle(out, source, rows, calibration, progress, force)
    show(bundle, json_output)
