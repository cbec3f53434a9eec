"""The architecture of a network of ours: which one fits the data, and how rows enter it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from calibration.dataset import Dataset
from calibration.encoded_rows import EncodedRows
from calibration.image_framing import frame_images
from calibration.pretrained import load_pretrained
from calibration.standardising import standardising
from calibration.training_config import TrainingConfig
from models.encoder_network import encoder_network
from models.encoders import open_encoder
from models.errors import CalibrationError
from models.mlp import MlpConfig, mlp_network
from models.multi_exit import MultiExitNetwork
from models.preprocessing import NumberPreprocessing, Preprocessing, TensorSpec
from models.residual import ResidualConfig, residual_network

TOKEN_INPUTS = ("input_ids", "attention_mask")

DEFAULTS = {
    "resnet": TrainingConfig(epochs=20),
    "mlp": TrainingConfig(epochs=40, batch=64, peak_learning_rate=1e-3, patience=8),
    "encoder": TrainingConfig(
        epochs=4, batch=32, peak_learning_rate=1e-4, head_rate=10.0, weight_decay=0.01
    ),
}
"""How each architecture is trained where the user says nothing."""

Config = TypeVar("Config", TrainingConfig, ResidualConfig, MlpConfig, "EncoderConfig")


@dataclass(frozen=True)
class ArchitectureOptions:
    """What the user decides about the network.

    name : `resnet`, `mlp`, or the directory of a Hugging Face encoder; None: what fits the data
    network : fields of the network's configuration that differ from its defaults
    image_size : height and width that images are resized to; None: the size they all have
    max_tokens : longer texts are truncated to it; None: what the encoder has positions for
    """

    name: str | None = None
    network: Mapping[str, Any] = field(default_factory=dict)
    image_size: tuple[int, int] | None = None
    max_tokens: int | None = None


@dataclass(frozen=True)
class EncoderConfig:
    """Shape of what is put on a pretrained encoder: linear heads."""

    labels: int
    dropout: float = 0.1  # before the heads


@dataclass(frozen=True)
class Architecture:
    """A network that fits the data, not built yet, and how rows become its inputs.

    name : `resnet`, `mlp` or `encoder`
    build : makes the network; new weights come from torch's global generator
    config : what decides its shape, for the record
    """

    name: str
    build: Callable[[], MultiExitNetwork]
    config: dict[str, Any]
    preprocessing: Preprocessing
    inputs: tuple[TensorSpec, ...]
    files: dict[str, bytes] = field(default_factory=dict)


def choose_architecture(
    options: ArchitectureOptions, dataset: Dataset, rows: np.ndarray, skip_bad: bool = False
) -> Architecture:
    """Find the architecture for the data.

    Parameters
    ----------
    rows : int (n,), ascending: the fit split, by which columns are standardised
    skip_bad : leave out rows that cannot be encoded, instead of refusing the data

    Raises
    ------
    CalibrationError
        When the architecture asked for does not fit the data, or none does.
    """
    shape = np.shape(next(dataset.read(1))[0]) if dataset.kind == "numbers" else ()
    name = options.name or _default_name(dataset.kind, len(shape))
    if name == "mlp":
        _check_fit(name, dataset.kind == "numbers" and len(shape) == 1, dataset, shape)
        return _mlp(options, dataset, rows, shape[0], skip_bad)
    if name == "resnet":
        _check_fit(name, dataset.kind == "image" or len(shape) == 3, dataset, shape)
        return _resnet(options, dataset, shape)
    if not Path(name).is_dir():
        raise CalibrationError(
            f"no architecture {name!r}: expected resnet, mlp, or the directory of a Hugging Face "
            "encoder; nothing is downloaded"
        )
    _check_fit(name, dataset.kind == "text", dataset, shape)
    return _encoder(options, dataset, Path(name))


def configured(config: Config, changes: Mapping[str, Any]) -> Config:
    """`config` with some fields changed; CalibrationError names a field that it does not have."""
    known = [each.name for each in fields(config)]
    for name in changes:
        if name not in known:
            raise CalibrationError(
                f"{type(config).__name__} has no {name!r}: expected one of {', '.join(known)}"
            )
    return replace(config, **changes)


def _default_name(kind: str, dimensions: int) -> str:
    if kind == "text":
        raise CalibrationError(
            "texts need a pretrained encoder: give the directory of one, with its tokenizer.json, "
            "by --architecture"
        )
    return "resnet" if kind == "image" or dimensions == 3 else "mlp"


def _check_fit(name: str, fits: bool, dataset: Dataset, shape: tuple[int, ...]) -> None:
    if not fits:
        kind = f"numbers of shape {shape}" if dataset.kind == "numbers" else f"{dataset.kind}s"
        raise CalibrationError(
            f"architecture {name} does not fit rows that are {kind}: mlp takes vectors of numbers, "
            "resnet takes images or numbers (channels, height, width), and the directory of an "
            "encoder takes texts"
        )


def _mlp(
    options: ArchitectureOptions,
    dataset: Dataset,
    rows: np.ndarray,
    features: int,
    skip_bad: bool,
) -> Architecture:
    config = configured(MlpConfig(features, len(dataset.names)), options.network)
    inputs = (TensorSpec(name="numbers", row_shape=(features,)),)
    plain = open_encoder(NumberPreprocessing(), inputs, {})
    return Architecture(
        "mlp",
        lambda: mlp_network(config),
        asdict(config),
        standardising(EncodedRows(dataset, rows, plain, skip_bad)),
        inputs,
    )


def _resnet(options: ArchitectureOptions, dataset: Dataset, shape: tuple[int, ...]) -> Architecture:
    preprocessing: Preprocessing = NumberPreprocessing()
    if dataset.kind == "image":
        preprocessing = frame_images(dataset, options.image_size)
        channels = 1 if preprocessing.mode == "L" else 3
        shape = (channels, preprocessing.height, preprocessing.width)
    channels, height, width = shape
    config = configured(
        ResidualConfig(len(dataset.names), channels, height, width), options.network
    )
    inputs = (TensorSpec(name="image", row_shape=shape),)
    return Architecture(
        "resnet", lambda: residual_network(config), asdict(config), preprocessing, inputs
    )


def _encoder(options: ArchitectureOptions, dataset: Dataset, directory: Path) -> Architecture:
    pretrained = load_pretrained(directory)
    config = configured(EncoderConfig(len(dataset.names)), options.network)
    preprocessing = pretrained.preprocessing
    wanted = options.max_tokens or preprocessing.max_tokens
    if wanted > preprocessing.max_tokens:
        raise CalibrationError(
            f"--max-tokens {wanted} is more than the encoder in {directory} takes: expected at "
            f"most {preprocessing.max_tokens}"
        )
    return Architecture(
        "encoder",
        lambda: encoder_network(pretrained.encoder, config.labels, config.dropout),
        {**asdict(config), "directory": directory.resolve().name},
        preprocessing.model_copy(update={"max_tokens": wanted}),
        tuple(TensorSpec(name=name, dtype="int64", row_shape=(None,)) for name in TOKEN_INPUTS),
        pretrained.files,
    )
