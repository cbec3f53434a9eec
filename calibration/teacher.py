"""An external teacher: its probabilities for every row, from a file or by another model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import expit

from calibration.dataset import Dataset
from calibration.features import PassOptions, encoding_key, run_pass
from calibration.input_choice import InputOptions, choose_preprocessing, row_shape
from calibration.layers import logits_column
from calibration.sources import open_source
from models.encoders import open_encoder
from models.errors import CalibrationError

if TYPE_CHECKING:
    from rich.progress import Progress


def teacher_probabilities(
    teacher: str,
    dataset: Dataset,
    inputs: InputOptions,
    options: PassOptions,
    progress: Progress,
) -> np.ndarray:
    """Probabilities float (n, L) for all rows.

    Parameters
    ----------
    teacher : an .npy file of probabilities, one row per row of the data (the main file's rows
        first, then those of the tune, certify and test files), or a model with logits of its own

    Raises
    ------
    CalibrationError
        When the file does not fit the data, or the model has no logits over its labels.
    """
    if teacher.endswith(".npy"):
        return _from_file(Path(teacher), len(dataset), len(dataset.names))
    labels = len(dataset.names)
    source = open_source(teacher, labels, row_shape=row_shape(dataset, inputs))
    if not source.has_head:
        raise CalibrationError(
            f"--teacher {teacher} has no classification head over the {labels} labels: a teacher "
            "has to give probabilities"
        )
    if source.names is not None and source.names != dataset.names:
        raise CalibrationError(
            f"--teacher {teacher} names its labels {source.names[:5]}…, the data "
            f"{dataset.names[:5]}…: the order must be the same"
        )
    preprocessing, files = choose_preprocessing(source, dataset, inputs)
    encoder = open_encoder(preprocessing, source.inputs, files)
    column = logits_column(source.model, source.output, labels)
    key = encoding_key(preprocessing, files)
    features = run_pass(source.model, [column], encoder, key, dataset, options, progress, "teacher")
    return np.asarray(expit(features.columns[0]))


def _from_file(path: Path, rows: int, labels: int) -> np.ndarray:
    try:
        probabilities = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise CalibrationError(
            f"--teacher {path} is not an .npy file of numbers ({error})"
        ) from error
    if probabilities.shape != (rows, labels):
        raise CalibrationError(
            f"--teacher {path} has shape {probabilities.shape}, expected ({rows}, {labels}): one "
            "probability per row and label of the data"
        )
    if not ((probabilities >= 0) & (probabilities <= 1)).all():
        raise CalibrationError(f"--teacher {path} holds values outside [0, 1] or NaN")
    return np.asarray(probabilities, np.float32)
