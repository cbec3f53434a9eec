"""A pretrained text encoder in a local Hugging Face directory, to be trained further."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from calibration.huggingface_inputs import text_preprocessing
from calibration.huggingface_library import import_library, load_model, quiet
from models.errors import CalibrationError
from models.preprocessing import TextPreprocessing

WEIGHTS = ("model.safetensors", "model.safetensors.index.json")


@dataclass(frozen=True)
class Pretrained:
    """An encoder, and how texts become its tokens.

    encoder : the library's model, float32, in evaluation mode
    files : `tokenizer.json`
    """

    encoder: Any
    preprocessing: TextPreprocessing
    files: dict[str, bytes]


def load_pretrained(directory: Path) -> Pretrained:
    """Load a directory as `save_pretrained` writes it; nothing is downloaded, no pickle is read.

    Raises
    ------
    CalibrationError
        When transformers is not installed, or the directory has no complete model with its
        tokenizer.
    """
    transformers = import_library()
    if not any((directory / name).is_file() for name in WEIGHTS):
        raise CalibrationError(
            f"{directory} has no {WEIGHTS[0]}: expected a directory as save_pretrained writes it; "
            "weights in pickles are not read, load and save them once where their origin is trusted"
        )
    with quiet(transformers):
        encoder = load_model(transformers, "AutoModel", directory).eval()
    preprocessing, files = text_preprocessing(
        directory, _positions(encoder), getattr(encoder.config, "pad_token_id", None)
    )
    return Pretrained(encoder, preprocessing, files)


def _positions(encoder: nn.Module) -> int | None:
    """The most tokens that it has positions for; RoBERTa's begin behind the padding token's."""
    for name, part in encoder.named_modules():
        if name.endswith("position_embeddings") and isinstance(part, nn.Embedding):
            begin = 0 if part.padding_idx is None else part.padding_idx + 1
            return part.num_embeddings - begin
    return None
