"""What `offramp train` makes of data: a trained multi-exit backbone, ready for calibration."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np

from calibration.architecture import (
    DEFAULTS,
    Architecture,
    ArchitectureOptions,
    choose_architecture,
    configured,
)
from calibration.checkpoint import CheckpointFile
from calibration.dataset import SPLITS, Dataset
from calibration.encoded_rows import EncodedRows
from calibration.epoch_profile import ExitState, as_records
from calibration.training import TrainedNetwork, TrainingRows, check_training, train_network
from calibration.training_config import TrainingConfig
from models.backbone import Backbone
from models.encoders import open_encoder
from models.errors import CalibrationError
from models.export import export_network
from models.machine import available_cores
from models.preprocessing import Preprocessing

if TYPE_CHECKING:
    from rich.progress import Progress

FEWEST_ROWS = 10
MOST_HELD_OUT = 2000  # rows; more would only make the epochs' profiles slow


@dataclass(frozen=True)
class TrainOptions:
    """What the user decides.

    architecture : of the network
    training : fields of TrainingConfig that differ from the architecture's defaults
    checkpoint : file that is written after every epoch
    resume : go on from it
    force : overwrite it
    skip_bad : leave out rows that cannot be encoded, instead of refusing the data
    threads : cores for each product; None: one for an MLP, else all
    """

    architecture: ArchitectureOptions = field(default_factory=ArchitectureOptions)
    training: Mapping[str, Any] = field(default_factory=dict)
    checkpoint: Path | None = None
    resume: bool = False
    force: bool = False
    skip_bad: bool = False
    threads: int | None = None

    def __post_init__(self) -> None:
        if self.resume and self.checkpoint is None:
            raise CalibrationError(
                "--resume needs the file to go on from: give it with --checkpoint"
            )


@dataclass(frozen=True)
class Trained:
    """A trained network as calibration takes it.

    files : what the preprocessing needs in the bundle, e.g. `tokenizer.json`
    facts : configuration, duration and the profile of every epoch; values that JSON knows
    """

    backbone: Backbone
    preprocessing: Preprocessing
    files: dict[str, bytes]
    facts: dict[str, Any]


def train(
    options: TrainOptions, dataset: Dataset, split: np.ndarray, progress: Progress
) -> Trained:
    """Train a multi-exit network on the fit split and export it.

    Parameters
    ----------
    split : int8 (n,), index into SPLITS; only rows of `fit` are looked at

    Raises
    ------
    CalibrationError
        When options and data do not fit each other, or the training diverges.
    """
    import torch

    started = perf_counter()
    fit = np.flatnonzero(split == SPLITS.index("fit"))
    if len(fit) < FEWEST_ROWS:
        raise CalibrationError(
            f"the fit split has {len(fit)} rows, expected at least {FEWEST_ROWS} to train on"
        )
    architecture = choose_architecture(options.architecture, dataset, fit, options.skip_bad)
    config = configured(DEFAULTS[architecture.name], options.training)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        network = architecture.build()
    check_training(config, network.depth)  # mistakes are told now, not after hours of encoding
    checkpoint = _open_checkpoint(options, config, architecture, dataset, fit)
    rows = _encode(options, architecture, config, dataset, fit, progress)
    with _threads(options.threads or (1 if architecture.name == "mlp" else available_cores())):
        trained = train_network(network, rows, config, progress, checkpoint, options.resume)
    task = progress.add_task("export to ONNX", total=None)
    example = tuple(map(torch.from_numpy, rows.held_out.example()))
    backbone = export_network(trained.network, example, architecture.inputs)
    progress.update(task, total=1, completed=1)
    facts = _facts(architecture, config, rows, trained, perf_counter() - started)
    return Trained(backbone, architecture.preprocessing, architecture.files, facts)


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Small products that wait for a busy second core take ten times as long as on one."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _encode(
    options: TrainOptions,
    architecture: Architecture,
    config: TrainingConfig,
    dataset: Dataset,
    fit: np.ndarray,
    progress: Progress,
) -> TrainingRows:
    """Part the fit split into rows to train on and rows to watch, by the seed."""
    task = progress.add_task("encode", total=None)
    encoder = open_encoder(architecture.preprocessing, architecture.inputs, architecture.files)
    order = np.random.default_rng(config.seed).permutation(fit)
    watched = min(max(round(config.held_out * len(fit)), 1), MOST_HELD_OUT)
    rows = TrainingRows(
        train=EncodedRows(dataset, np.sort(order[watched:]), encoder, options.skip_bad),
        held_out=EncodedRows(dataset, np.sort(order[:watched]), encoder, options.skip_bad),
    )
    progress.update(task, total=1, completed=1)
    return rows


def _open_checkpoint(
    options: TrainOptions,
    config: TrainingConfig,
    architecture: Architecture,
    dataset: Dataset,
    fit: np.ndarray,
) -> CheckpointFile | None:
    if options.checkpoint is None:
        return None
    identity = {
        "architecture": architecture.name,
        **{f"network.{name}": value for name, value in architecture.config.items()},
        **{f"training.{name}": value for name, value in asdict(config).items()},
        "preprocessing": architecture.preprocessing.model_dump(mode="json"),
        "labels": dataset.names,
        "epoch profile": [field.name for field in fields(ExitState)],
        "data": dataset.digest,
        "fit split": hashlib.sha256(fit.astype("<i8").tobytes()).hexdigest(),
    }
    checkpoint = CheckpointFile(options.checkpoint, identity)
    if options.resume:
        checkpoint.read()
    elif not options.force:
        checkpoint.refuse_existing()
    return checkpoint


def _facts(
    architecture: Architecture,
    config: TrainingConfig,
    rows: TrainingRows,
    trained: TrainedNetwork,
    seconds: float,
) -> dict[str, Any]:
    import torch

    parameters = sum(weight.numel() for weight in trained.network.parameters())
    return {
        "architecture": architecture.name,
        "network": architecture.config,
        "training": asdict(config),
        "parameters": parameters,
        "rows": {"train": len(rows.train), "held_out": len(rows.held_out)},
        "best_epoch": trained.best_epoch,
        "epochs": as_records(trained.epochs),
        "seconds": round(seconds, 1),
        "torch": torch.__version__,
    }
