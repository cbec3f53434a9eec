"""From data files to a trained multi-exit network and its bundle: `offramp train`."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from calibration.build import sample_rows, write_calibrated
from calibration.dataset import Dataset
from calibration.layers import layers_of_backbone
from calibration.options import CalibrationData, CalibrationOptions
from calibration.readers import DataOptions, open_dataset
from calibration.splits import assign_splits
from calibration.trained import TrainOptions, train
from models.bundle import Bundle, check_target
from models.encoders import open_encoder

if TYPE_CHECKING:
    from rich.progress import Progress


def build_from_files(
    out: Path,
    training: TrainOptions,
    data: DataOptions,
    options: CalibrationOptions,
    progress: Progress,
    force: bool = False,
) -> Bundle:
    """Train a network of ours on data files and make its bundle."""
    check_target(out, force)
    dataset = open_dataset(data)
    split = assign_splits(dataset, options.seed)
    return build_trained(out, training, dataset, split, options, progress, force)


def build_trained(
    out: Path,
    training: TrainOptions,
    dataset: Dataset,
    split: np.ndarray,
    options: CalibrationOptions,
    progress: Progress,
    force: bool = False,
) -> Bundle:
    """Train a network of ours on rows and make its bundle.

    Parameters
    ----------
    split : int8 (n,), index into SPLITS
    options : its cache is not used: a network that has just been trained has none

    Raises
    ------
    OfframpError
        For every mistake of the user's; no half-written bundle is left.
    """
    check_target(out, force)
    trained = train(training, dataset, split, progress)
    inputs = trained.backbone.inputs
    encoder = open_encoder(trained.preprocessing, inputs, trained.files)
    sample = sample_rows(dataset, encoder)
    layered = layers_of_backbone(trained.backbone, sample.tensors, len(dataset.names))
    data = CalibrationData(dataset, split, encoder, trained.preprocessing, trained.files, sample)
    with tempfile.TemporaryDirectory(prefix="offramp-") as cache:
        features = replace(options.features, cache=Path(cache))
        once = replace(options, features=features)
        facts = {"training": trained.facts}
        return write_calibrated(out, layered, data, once, progress, facts, force)
