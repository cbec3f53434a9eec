from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from calibration.pretrained import load_pretrained
from models.errors import CalibrationError
from tests.tiny_encoders import MAX_TOKENS, config_of, write_encoder


@pytest.mark.parametrize(
    ("family", "pad"), [("bert", 0), ("distilbert", 0), ("roberta", 1), ("mpnet", 1)]
)
def test_a_directory_gives_encoder_limits_and_tokenizer(
    tmp_path: Path, family: str, pad: int
) -> None:
    found = load_pretrained(write_encoder(tmp_path, family))
    assert found.preprocessing.max_tokens == MAX_TOKENS
    assert found.preprocessing.pad_id == pad
    assert found.files == {"tokenizer.json": (tmp_path / "tokenizer.json").read_bytes()}
    assert not found.encoder.training
    ids = torch.full((1, MAX_TOKENS), 5)
    assert torch.isfinite(found.encoder(ids).last_hidden_state).all()


def test_weights_are_float32_whatever_the_file_holds(tmp_path: Path) -> None:
    write_encoder(tmp_path)
    half = transformers.AutoModel.from_config(config_of("bert")).half()
    half.save_pretrained(tmp_path)
    encoder = load_pretrained(tmp_path).encoder
    assert {weight.dtype for weight in encoder.parameters()} == {torch.float32}


def test_pickled_weights_are_not_read(tmp_path: Path) -> None:
    write_encoder(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    torch.save(weights, tmp_path / "pytorch_model.bin")
    with pytest.raises(CalibrationError, match=r"has no model\.safetensors"):
        load_pretrained(tmp_path)


def test_weights_that_are_missing_are_named(tmp_path: Path) -> None:
    write_encoder(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    gone = "encoder.layer.1.output.dense.weight"
    del weights[gone]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CalibrationError, match=f"lack 1 tensors of BertModel, e.g. {gone}"):
        load_pretrained(tmp_path)


def test_a_directory_that_cannot_be_loaded_says_why(tmp_path: Path) -> None:
    write_encoder(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "no-such-model"}')
    with pytest.raises(
        CalibrationError, match=r"cannot be loaded by transformers: .*no-such-model"
    ):
        load_pretrained(tmp_path)


def test_a_missing_tokenizer_is_named(tmp_path: Path) -> None:
    (write_encoder(tmp_path) / "tokenizer.json").unlink()
    with pytest.raises(CalibrationError, match=r"tokenizer\.json"):
        load_pretrained(tmp_path)


def test_without_the_library_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_encoder(tmp_path)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(CalibrationError, match=r"offramp\[transformers\]"):
        load_pretrained(tmp_path)
