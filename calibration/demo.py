"""The default bundle: the residual network on the embedded `digits`, from nothing to certified."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calibration.dataset import Dataset
from calibration.digits import compose_digits
from calibration.features import PassOptions, default_cache
from calibration.guarantee import GuaranteeOptions
from calibration.options import CalibrationOptions
from calibration.train_build import build_trained
from calibration.trained import TrainOptions
from models.bundle import Bundle, check_target

if TYPE_CHECKING:
    from rich.progress import Progress

# a small network learns all its exits best together, and the demo has to be quick
TRAINING = {"epochs": 8, "schedule": "joint", "held_out": 0.05}
EXAMPLES = 6  # rows in the bundle


def build_demo(
    out: Path,
    guarantee: GuaranteeOptions,
    progress: Progress,
    seed: int = 0,
    force: bool = False,
    dataset: Dataset | None = None,
    training: Mapping[str, Any] | None = None,
    command: str = "",
) -> Bundle:
    """Compose the data, train, export, calibrate, and write the bundle to `out`.

    Parameters
    ----------
    dataset, training : smaller ones make a quicker bundle, for tests
    command : what the user typed, to be recorded
    """
    check_target(out, force)
    if dataset is None:
        task = progress.add_task("compose digits", total=None)
        dataset = compose_digits(seed)
        progress.update(task, total=1, completed=1)
    options = CalibrationOptions(
        "digits",
        PassOptions(default_cache()),
        guarantee,
        examples=EXAMPLES,
        seed=seed,
        command=command,
    )
    network = TrainOptions(training={**TRAINING, "seed": seed, **(training or {})})
    return build_trained(out, network, dataset, dataset.split, options, progress, force)
