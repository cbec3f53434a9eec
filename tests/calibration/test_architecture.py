from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from calibration.architecture import (
    DEFAULTS,
    Architecture,
    ArchitectureOptions,
    choose_architecture,
    configured,
)
from calibration.dataset import Dataset, from_arrays
from calibration.training_config import TrainingConfig
from models.encoders import open_encoder
from models.errors import CalibrationError
from models.preprocessing import ImagePreprocessing, NumberPreprocessing, TextPreprocessing
from tests.tiny_encoders import LAYERS, MAX_TOKENS, write_encoder

ROWS = 12
LABELS = np.zeros((ROWS, 2), bool)


def numbers(*shape: int) -> Dataset:
    rows = np.random.default_rng(0).normal(3, 2, (ROWS, *shape)).astype(np.float32)
    return from_arrays(rows, LABELS, ("a", "b"))


def texts() -> Dataset:
    return replace(numbers(1), kind="text", read=lambda _: iter([["w1 w2", "w3"] * (ROWS // 2)]))


def images() -> Dataset:
    content = io.BytesIO()
    Image.new("RGB", (24, 18)).save(content, "PNG")
    return replace(numbers(1), kind="image", read=lambda _: iter([[content.getvalue()] * ROWS]))


def choose(dataset: Dataset, name: str | None = None, **options: Any) -> Architecture:
    rows = np.arange(ROWS // 2)
    return choose_architecture(ArchitectureOptions(name, **options), dataset, rows)


def logits_of(architecture: Architecture, dataset: Dataset) -> list[torch.Tensor]:
    """The network's answers on rows encoded as the architecture says."""
    encoder = open_encoder(architecture.preprocessing, architecture.inputs, architecture.files)
    encoded = encoder.encode(next(dataset.read(ROWS)))
    assert not encoded.bad
    logits, _ = architecture.build()(*map(torch.from_numpy, encoded.groups[0].tensors))
    return list(logits)


def test_vectors_get_a_perceptron_and_are_standardised_by_the_fit_split() -> None:
    data = numbers(5)
    found = choose(data)
    assert found.name == "mlp"
    fit = next(data.read(ROWS))[: ROWS // 2]
    assert isinstance(found.preprocessing, NumberPreprocessing)
    np.testing.assert_allclose(found.preprocessing.mean, np.mean(fit, 0), rtol=1e-5)
    np.testing.assert_allclose(found.preprocessing.scale, np.std(fit, 0), rtol=1e-5)
    assert [tuple(of_exit.shape) for of_exit in logits_of(found, data)] == [(ROWS, 2)] * 4


def test_arrays_of_three_dimensions_get_a_residual_network_as_they_are() -> None:
    data = numbers(2, 16, 20)
    found = choose(data)
    assert found.name == "resnet"
    assert found.preprocessing == NumberPreprocessing()
    assert [tuple(of_exit.shape) for of_exit in logits_of(found, data)] == [(ROWS, 2)] * 4


def test_images_get_a_residual_network_of_their_size() -> None:
    found = choose(images())
    assert found.name == "resnet"
    assert found.preprocessing == ImagePreprocessing(height=18, width=24)
    assert found.inputs[0].row_shape == (3, 18, 24)
    assert logits_of(found, images())[0].shape == (ROWS, 2)
    assert choose(images(), image_size=(32, 48)).inputs[0].row_shape == (3, 32, 48)


def test_texts_get_the_encoder_in_the_directory(tmp_path: Path) -> None:
    found = choose(texts(), str(write_encoder(tmp_path)))
    assert found.name == "encoder"
    assert found.preprocessing == TextPreprocessing(max_tokens=MAX_TOKENS)
    assert found.config["directory"] == tmp_path.name
    assert len(logits_of(found, texts())) == LAYERS


def test_texts_may_be_truncated_but_not_beyond_the_encoder_s_positions(tmp_path: Path) -> None:
    write_encoder(tmp_path)
    found = choose(texts(), str(tmp_path), max_tokens=9).preprocessing
    assert found == TextPreprocessing(max_tokens=9)
    with pytest.raises(CalibrationError, match=r"--max-tokens 41 is more than .* at most 40"):
        choose(texts(), str(tmp_path), max_tokens=41)


def test_the_shape_of_the_network_may_be_given() -> None:
    found = choose(numbers(5), network={"width": 16, "blocks": 2})
    assert found.config == {**choose(numbers(5)).config, "width": 16, "blocks": 2}
    assert len(logits_of(found, numbers(5))) == 2


@pytest.mark.parametrize(
    ("dataset", "name", "message"),
    [
        (texts(), None, "texts need a pretrained encoder"),
        (texts(), "mlp", "mlp does not fit rows that are texts"),
        (images(), "mlp", "mlp does not fit rows that are images"),
        (numbers(5), "resnet", r"resnet does not fit rows that are numbers of shape \(5,\)"),
        (numbers(4, 4), None, r"numbers of shape \(4, 4\)"),
        (numbers(5), "transformer", "no architecture 'transformer': expected resnet, mlp"),
        (numbers(5), "tests", "tests does not fit rows that are numbers"),
        (numbers(1, 8, 40), None, "8x40 pixels are too small"),
    ],
)
def test_what_does_not_fit_is_refused(dataset: Dataset, name: str | None, message: str) -> None:
    with pytest.raises(CalibrationError, match=message):
        choose(dataset, name)


def test_unknown_options_are_named() -> None:
    with pytest.raises(CalibrationError, match="MlpConfig has no 'channels': expected one of"):
        choose(numbers(5), network={"channels": 8})
    with pytest.raises(CalibrationError, match="TrainingConfig has no 'momentum'"):
        configured(DEFAULTS["mlp"], {"momentum": 0.9})
    assert configured(TrainingConfig(), {"epochs": 3}) == TrainingConfig(epochs=3)
