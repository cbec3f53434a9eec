"""How raw rows become the model's inputs, where model and data leave it open."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter, ValidationError

from calibration.dataset import Dataset
from calibration.source import Source
from models.errors import CalibrationError
from models.preprocessing import (
    TOKENIZER,
    ImagePreprocessing,
    NumberPreprocessing,
    Preprocessing,
    TextPreprocessing,
)

DEFAULT_TOKENS = 128


@dataclass(frozen=True)
class InputOptions:
    """What the user says of the inputs; it goes before what the model says.

    preprocessing : a JSON file in the manifest's form, e.g. {"kind": "image", "height": 64, ...}
    tokenizer : a tokenizer.json, for a model of texts that comes without one
    max_tokens : longer texts are truncated to it
    """

    preprocessing: Path | None = None
    tokenizer: Path | None = None
    max_tokens: int | None = None


def choose_preprocessing(
    source: Source, dataset: Dataset, options: InputOptions
) -> tuple[Preprocessing, dict[str, bytes]]:
    """Preprocessing for this data, and the files that it needs in the bundle.

    Raises
    ------
    CalibrationError
        When the model reads another kind of rows than the data holds, or something is missing.
    """
    files = dict(source.files)
    if options.tokenizer is not None:
        files[TOKENIZER] = _read(options.tokenizer, "--tokenizer")
    chosen: Preprocessing
    if options.preprocessing is not None:
        chosen = _parse(options.preprocessing)
    elif source.preprocessing is not None:
        chosen = source.preprocessing
    else:
        chosen = _default(source, dataset, files)
    if chosen.kind != dataset.kind:
        raise CalibrationError(
            f"the model reads {_words(chosen.kind)}, the data holds {_words(dataset.kind)}: name "
            "the column with --text-column or --image-column, or give the model's "
            "--preprocessing"
        )
    if isinstance(chosen, TextPreprocessing) and options.max_tokens is not None:
        if options.max_tokens > chosen.max_tokens and source.preprocessing is not None:
            raise CalibrationError(
                f"--max-tokens is {options.max_tokens}, the model takes at most {chosen.max_tokens}"
            )
        chosen = chosen.model_copy(update={"max_tokens": options.max_tokens})
    return chosen, files


def row_shape(dataset: Dataset, options: InputOptions) -> tuple[int, ...] | None:
    """Shape of one row of the model's input, as far as the data decides it."""
    if dataset.kind == "numbers":
        return tuple(np.asarray(next(dataset.read(1))).shape[1:])
    if dataset.kind == "image" and options.preprocessing is not None:
        spec = _parse(options.preprocessing)
        if isinstance(spec, ImagePreprocessing):
            return (1 if spec.mode == "L" else 3, spec.height, spec.width)
    return None


def _default(source: Source, dataset: Dataset, files: dict[str, bytes]) -> Preprocessing:
    if dataset.kind == "numbers":
        return NumberPreprocessing()
    if dataset.kind == "text":
        if TOKENIZER not in files:
            raise CalibrationError(
                "the data holds texts and the model comes without a tokenizer: give its "
                "tokenizer.json with --tokenizer"
            )
        return TextPreprocessing(max_tokens=DEFAULT_TOKENS)
    shape = source.inputs[0].row_shape
    if len(source.inputs) != 1 or len(shape) != 3 or shape[0] not in (1, 3) or None in shape:
        raise CalibrationError(
            f"the data holds images, the model's input {source.inputs[0].name!r} has rows of shape "
            f"{shape}, expected (1 or 3, height, width): give the model's --preprocessing"
        )
    channels, height, width = shape
    return ImagePreprocessing(
        mode="L" if channels == 1 else "RGB", height=height or 1, width=width or 1
    )


def _parse(path: Path) -> Preprocessing:
    adapter: TypeAdapter[Any] = TypeAdapter(Preprocessing)
    try:
        parsed: Preprocessing = adapter.validate_json(_read(path, "--preprocessing"))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"]) or "document"
        raise CalibrationError(
            f"--preprocessing {path}: {field}: {first['msg']}; expected JSON such as "
            '{"kind": "image", "height": 224, "width": 224, "mean": [0.5, 0.5, 0.5], '
            '"std": [0.5, 0.5, 0.5]}'
        ) from error
    return parsed


def _read(path: Path, option: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CalibrationError(f"{option} {path} cannot be read ({error.strerror})") from error


def _words(kind: str) -> str:
    return {"numbers": "numbers", "text": "texts", "image": "images"}[kind]
