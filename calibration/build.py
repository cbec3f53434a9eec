"""From a trained model and data files to a written bundle: `offramp calibrate`."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from calibration.bundle_examples import write_examples
from calibration.dataset import Dataset
from calibration.input_choice import InputOptions, choose_preprocessing, row_shape
from calibration.layers import LayeredModel, layers_of_source
from calibration.options import CalibrationData, CalibrationOptions
from calibration.pipeline import calibrate, profile_model
from calibration.readers import DataOptions, open_dataset
from calibration.report_page import write_report
from calibration.source import Source
from calibration.sources import open_source
from calibration.split_checks import certified_before
from calibration.splits import assign_splits
from calibration.teacher import teacher_probabilities
from models.bundle import EXAMPLES, MODEL, REFERENCE, Bundle, check_target, write_bundle
from models.encoders import open_encoder
from models.errors import CalibrationError

if TYPE_CHECKING:
    from rich.progress import Progress

    from models.encoding import Encoder, Group
    from models.measurements import Profile

REPORT = "report.html"
SAMPLE_ROWS = 64


@dataclass(frozen=True)
class ModelOptions:
    """The model, and how it is to be understood.

    model : an ONNX file, a Hugging Face directory, or `package.module:factory`
    weights : of the factory's module
    output : the tensor with the logits, or the last hidden state; None: found
    has_head : whether that tensor is logits over the labels; None: found
    teacher : a file of probabilities (.npy), or a model; None: the model itself
    max_carry : the most tensors that may cross a cut
    """

    model: str
    weights: Path | None = None
    output: str | None = None
    has_head: bool | None = None
    teacher: str | None = None
    max_carry: int = 3
    inputs: InputOptions = field(default_factory=InputOptions)


def build_bundle(
    out: Path,
    model: ModelOptions,
    data: DataOptions,
    options: CalibrationOptions,
    progress: Progress,
    force: bool = False,
) -> Bundle:
    """Make an early-exit bundle of a trained model.

    Raises
    ------
    OfframpError
        For every mistake of the user's; no half-written bundle is left.
    """
    check_target(out, force)
    layered, calibration_data, facts = _open(model, data, options, progress)
    return write_calibrated(out, layered, calibration_data, options, progress, facts, force)


def profile_source(
    model: ModelOptions, data: DataOptions, options: CalibrationOptions, progress: Progress
) -> tuple[Profile, list[str]]:
    """Measure every candidate layer of a trained model; nothing is written.

    Returns
    -------
    The profile, and warnings about the splits.
    """
    layered, calibration_data, _ = _open(model, data, options, progress)
    return profile_model(layered, calibration_data, options, progress)


def write_calibrated(
    out: Path,
    layered: LayeredModel,
    data: CalibrationData,
    options: CalibrationOptions,
    progress: Progress,
    facts: dict[str, Any],
    force: bool = False,
) -> Bundle:
    """Calibrate and write the bundle."""
    beside = {path.name: path for path in out.parent.glob("*") if path.is_dir()}
    fresh = replace(data, certified_before=certified_before(beside))
    recorded = {**facts, "command": options.command}
    manifest, model, reference = calibrate(layered, fresh, options, progress, recorded)
    files = {
        MODEL: model,
        REPORT: write_report(manifest),
        REFERENCE: reference.model_dump_json().encode(),
        **data.files,
    }
    if options.examples:
        files[EXAMPLES] = write_examples(options.examples, data, manifest, model, options.seed)
    return write_bundle(out, manifest, files, force)


def sample_rows(dataset: Dataset, encoder: Encoder) -> Group:
    """A few encoded rows of the most usual shape.

    Raises
    ------
    CalibrationError
        When not one of the first rows fits the model.
    """
    raw = next(dataset.read(SAMPLE_ROWS))
    encoded = encoder.encode(raw)
    if not encoded.groups:
        row, reason = min(encoded.bad.items())
        raise CalibrationError(
            f"the data does not fit the model: {dataset.place(row)}: {reason} (and so for all of "
            f"the first {len(raw)} rows)"
        )
    return max(encoded.groups, key=lambda group: len(group.rows))


def with_names(dataset: Dataset, names: tuple[str, ...] | None) -> Dataset:
    """The data with its labels in the order of the model's own label names.

    Raises
    ------
    CalibrationError
        When the model and the data name different labels.
    """
    if names is None or names == dataset.names:
        return dataset
    if dataset.names == tuple(map(str, range(len(names)))):
        return replace(dataset, names=names)
    if set(names) != set(dataset.names):
        ours, theirs = set(dataset.names) - set(names), set(names) - set(dataset.names)
        raise CalibrationError(
            f"the labels of the data are not the model's: only the data has {_few(ours)}, only the "
            f"model has {_few(theirs)}; rename them, or train a head of its own with --no-head"
        )
    order = [dataset.names.index(name) for name in names]
    return replace(dataset, names=names, labels=np.ascontiguousarray(dataset.labels[:, order]))


def _open(
    model: ModelOptions, data: DataOptions, options: CalibrationOptions, progress: Progress
) -> tuple[LayeredModel, CalibrationData, dict[str, Any]]:
    """The model with its candidate layers, the data as it reads them, and facts to record."""
    dataset = open_dataset(data)
    split = assign_splits(dataset, options.seed)
    source = _open_source(model, dataset, progress)
    dataset = with_names(dataset, source.names)
    preprocessing, files = choose_preprocessing(source, dataset, model.inputs)
    encoder = open_encoder(preprocessing, source.inputs, files)
    sample = sample_rows(dataset, encoder)
    task = progress.add_task("cuts", total=None)
    labels = len(dataset.names)
    layered = layers_of_source(source, sample.tensors, labels, model.max_carry)
    progress.update(task, total=1, completed=1)
    teacher = None
    if model.teacher is not None:
        teacher = teacher_probabilities(
            model.teacher, dataset, model.inputs, options.features, progress
        )
    opened = CalibrationData(dataset, split, encoder, preprocessing, files, sample, teacher)
    return layered, opened, {"source": source.facts}


def _open_source(model: ModelOptions, dataset: Dataset, progress: Progress) -> Source:
    task = progress.add_task("open model", total=None)
    source = open_source(
        model.model,
        len(dataset.names),
        weights=model.weights,
        row_shape=row_shape(dataset, model.inputs),
        output=model.output,
        has_head=model.has_head,
    )
    progress.update(task, total=1, completed=1)
    return source


def _few(names: set[str]) -> str:
    listed = ", ".join(map(repr, sorted(names)[:5])) or "none"
    return listed + (f" and {len(names) - 5} more" if len(names) > 5 else "")
