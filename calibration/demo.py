"""The default bundle: the residual network on the embedded `digits`, from nothing to certified."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

from calibration.data import Splits
from calibration.digits import compose_digits
from calibration.pipeline import CalibrationOptions, calibrate
from calibration.report import draw_profile
from calibration.training import TrainingConfig, train_network
from models.backbone import Backbone
from models.bundle import MODEL, Bundle, check_target, write_bundle
from models.export import export_network

if TYPE_CHECKING:
    from rich.progress import Progress

PICTURE = "profile.png"


def build_demo(
    out: Path,
    options: CalibrationOptions,
    progress: Progress,
    force: bool = False,
    splits: Splits | None = None,
    training: TrainingConfig | None = None,
) -> Bundle:
    """Compose the data, train, export, calibrate, and write the bundle to `out`.

    Parameters
    ----------
    splits, training : smaller ones make a quicker bundle, for tests
    """
    check_target(out, force)
    splits = splits or _digits(options.seed, progress)
    training = training or TrainingConfig(seed=options.seed)
    started = perf_counter()
    backbone = _train_and_export(splits, training, progress)
    facts = {**asdict(training), "seconds": round(perf_counter() - started, 1)}
    manifest, model = calibrate(backbone, splits, options, progress, training=facts)
    return write_bundle(out, manifest, {MODEL: model, PICTURE: draw_profile(manifest)}, force)


def _digits(seed: int, progress: Progress) -> Splits:
    task = progress.add_task("compose digits", total=None)
    splits = compose_digits(seed)
    progress.update(task, total=1, completed=1)
    return splits


def _train_and_export(splits: Splits, training: TrainingConfig, progress: Progress) -> Backbone:
    import torch

    network = train_network(splits.fit, training, progress)
    task = progress.add_task("export to ONNX", total=None)
    backbone = export_network(network, torch.from_numpy(splits.tune.inputs[:2]))
    progress.update(task, total=1, completed=1)
    return backbone
