"""A pretrained text encoder in a local Hugging Face directory, to be trained further."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from calibration.huggingface_inputs import text_preprocessing
from calibration.huggingface_library import import_library, quiet
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
        encoder = _load(transformers, directory)
    preprocessing, files = text_preprocessing(
        directory, _positions(encoder), getattr(encoder.config, "pad_token_id", None)
    )
    return Pretrained(encoder, preprocessing, files)


def _load(transformers: Any, directory: Path) -> Any:
    try:
        encoder, report = transformers.AutoModel.from_pretrained(
            directory,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            dtype=torch.float32,
            output_loading_info=True,
        )
    except Exception as error:  # the library raises OSError, ValueError, KeyError and others
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise CalibrationError(
            f"{directory} cannot be loaded by transformers: {reason[:300].rstrip('. ')}; expected "
            "a text encoder of the library itself, such as BERT or DistilBERT"
        ) from error
    missing = sorted(key for key in report["missing_keys"] if not key.startswith("pooler."))
    if missing:
        raise CalibrationError(
            f"the weights in {directory} lack {len(missing)} tensors of {type(encoder).__name__}, "
            f"e.g. {', '.join(missing[:5])}: expected a complete model; the library would fill "
            "them with random numbers"
        )
    return encoder.eval()


def _positions(encoder: nn.Module) -> int | None:
    """The most tokens that it has positions for; RoBERTa's begin behind the padding token's."""
    for name, part in encoder.named_modules():
        if name.endswith("position_embeddings") and isinstance(part, nn.Embedding):
            begin = 0 if part.padding_idx is None else part.padding_idx + 1
            return part.num_embeddings - begin
    return None
