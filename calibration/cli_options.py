"""Options that several commands share, as typer annotations."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class LossName(StrEnum):
    """`--guarantee`."""

    set_agreement = "set-agreement"
    hamming = "hamming"
    sample_f1 = "sample-f1"
    micro_f1 = "micro-f1"


class AgainstName(StrEnum):
    """`--against`."""

    model = "model"
    labels = "labels"


class ScoreName(StrEnum):
    """`--score`."""

    auto = "auto"
    margin = "margin"
    width = "width"
    log_probability = "log-probability"
    agreement = "agreement"
    gate = "gate"


class DeviceName(StrEnum):
    """`--device`."""

    cpu = "cpu"
    cuda = "cuda"


DATA = "Data"
MODEL = "Model"
GUARANTEE = "Guarantee"
HEADS = "Heads"
RUN = "Run"


def _model(help_text: str, *names: str, **bounds: int) -> typer.models.OptionInfo:
    option: typer.models.OptionInfo = typer.Option(
        *names, help=help_text, rich_help_panel=MODEL, min=bounds.get("min")
    )
    return option


Model = Annotated[str, _model("An ONNX file, a Hugging Face directory, or package.module:factory.")]
Weights = Annotated[
    Path | None,
    _model("Weights of the factory's module: .safetensors, or a torch file of tensors only."),
]
Output = Annotated[str | None, _model("Name of the output with the logits.")]
Head = Annotated[
    bool | None,
    _model(
        "Whether the model's output is logits over the labels, or its last layer gets a trained "
        "head like the others; by default found out.",
        "--head/--no-head",
    ),
]
Teacher = Annotated[
    str | None,
    _model(
        "Whose probabilities the early exits learn from and are measured against: an .npy file "
        "(rows, labels), or another model; by default the model itself."
    ),
]
Preprocessing = Annotated[Path | None, _model("JSON file that says how rows are encoded.")]
Tokenizer = Annotated[Path | None, _model("tokenizer.json of the model.")]
MaxTokens = Annotated[int | None, _model("Longer texts are truncated to it.", min=3)]
MaxCarry = Annotated[int, _model("The most tensors at a cut.", min=1)]
HeadHidden = Annotated[
    int,
    typer.Option(min=0, help="Hidden units of a trained head; 0: linear.", rich_help_panel=HEADS),
]
Distill = Annotated[
    float,
    typer.Option(
        min=0, max=1, help="Weight of the teacher beside the labels.", rich_help_panel=HEADS
    ),
]


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


def _guarantee(help_text: str, *names: str) -> typer.models.OptionInfo:
    option: typer.models.OptionInfo = typer.Option(
        *names, help=help_text, rich_help_panel=GUARANTEE
    )
    return option


GuaranteeLoss = Annotated[
    list[LossName] | None,
    _guarantee(
        "What may be lost: set-agreement (label sets that differ), hamming (label decisions that "
        "differ), sample-f1 (a row's F1), micro-f1; given several times, all hold at once. By "
        "default the first against the model, sample-f1 against labels.",
        "--guarantee",
    ),
]
Against = Annotated[
    AgainstName | None,
    _guarantee(
        "Towards whom it is counted; by default the model where it has a head of its own, else "
        "the labels (the regret to the full model)."
    ),
]
Epsilon = Annotated[
    list[float] | None,
    _guarantee(
        "How much the policy may lose; once for all, or once per --guarantee. By default 0.02."
    ),
]
Delta = Annotated[float, _guarantee("Chance that the promise does not hold.")]
PerLabel = Annotated[
    bool,
    _guarantee("Promise label by label too, where a label has enough positives.", "--per-label"),
]
LabelEpsilon = Annotated[
    float, _guarantee("Share of its positives that a label may lose, with --per-label.")
]
Score = Annotated[
    ScoreName,
    _guarantee("Which score decides; auto: the best predictor of losses on the tune split."),
]
FreezeLabels = Annotated[
    bool,
    _guarantee("A label whose decision was clear at two exits keeps it.", "--freeze-labels"),
]
AllowDuplicates = Annotated[bool, _data("Take splits that share rows.", "--allow-duplicates")]
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

Examples = Annotated[
    int,
    typer.Option(
        min=0,
        max=24,
        help="Rows of the test split that go into the bundle, for the playground page: whoever "
        "has the bundle, or may ask the server, can read them.",
        rich_help_panel=RUN,
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
Device = Annotated[
    DeviceName,
    typer.Option(help="Where W-distances are computed that can use it.", rich_help_panel=RUN),
]
