"""How a Hugging Face directory says that its raw rows are prepared: texts or images."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from models.errors import CalibrationError
from models.preprocessing import TOKENIZER, ImagePreprocessing, TextPreprocessing

PROCESSOR = "preprocessor_config.json"
DEFAULT_MAX_TOKENS = 512
CONVNEXT_FULL_SIZE = 384  # from here on ConvNeXt's processor squeezes images instead of cropping
OTHER_RESIZE = "Levit"  # its processor enlarges by a factor that its file does not name

Resample = Literal["nearest", "lanczos", "bilinear", "bicubic", "box", "hamming"]
RESAMPLES: tuple[Resample, ...] = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")
"""By Pillow's numbers."""


def text_preprocessing(
    directory: Path, positions: int | None, pad_id: int | None
) -> tuple[TextPreprocessing, dict[str, bytes]]:
    """The preprocessing of texts and the file that it needs.

    Parameters
    ----------
    directory : with `tokenizer.json`
    positions : the most tokens that the model has positions for; None: any number
    pad_id : id of the padding token; None: 0

    Raises
    ------
    CalibrationError
        When `tokenizer.json` is missing.
    """
    file = directory / TOKENIZER
    if not file.is_file():
        raise CalibrationError(
            f"{directory} has no {TOKENIZER}, expected the fast tokenizer beside the model: write "
            "it with transformers.AutoTokenizer.from_pretrained(directory)"
            ".save_pretrained(directory)"
        )
    limits = [
        positions,
        read_json(directory / "tokenizer_config.json").get("model_max_length"),
        read_json(directory / "sentence_bert_config.json").get("max_seq_length"),
    ]
    known = [int(limit) for limit in limits if limit is not None and 0 < limit < 1e9]
    preprocessing = TextPreprocessing(
        max_tokens=min(known, default=DEFAULT_MAX_TOKENS), pad_id=pad_id or 0
    )
    return preprocessing, {TOKENIZER: file.read_bytes()}


def image_preprocessing(
    transformers: Any, directory: Path, channels: int, image_size: object
) -> ImagePreprocessing:
    """The preprocessing of images.

    Parameters
    ----------
    transformers : the library; it knows what a file leaves out
    directory : with `preprocessor_config.json`
    channels : that the model reads
    image_size : of the model's configuration, where the file names none

    Raises
    ------
    CalibrationError
        When the file is missing or asks for something that offramp does not do.
    """
    file = directory / PROCESSOR
    if not file.is_file():
        raise CalibrationError(
            f"{directory} has no {PROCESSOR}, expected the image processor beside the model: write "
            "it with transformers.AutoImageProcessor.from_pretrained(original)"
            ".save_pretrained(directory)"
        )
    if channels not in (1, 3):
        raise CalibrationError(f"the model reads {channels} channels, expected 3 (RGB) or 1 (grey)")
    try:
        processor = transformers.AutoImageProcessor.from_pretrained(
            directory, local_files_only=True, trust_remote_code=False
        )
        refused = processor.do_pad or type(processor).__name__.startswith(OTHER_RESIZE)
        if not refused:
            return ImagePreprocessing(
                **_sizes(processor, image_size, file), **_values(processor, channels)
            )
    except CalibrationError:
        raise
    except Exception as error:  # the library's own checks raise several kinds
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise CalibrationError(
            f"{file} cannot be followed ({reason}), expected an image processor as transformers "
            "writes it: size, resample, image_mean, image_std"
        ) from error
    raise CalibrationError(
        f"{file} ({type(processor).__name__}) pads, or resizes in a way of its own; expected "
        "resizing, centre crop, rescaling and normalisation only: export the model to ONNX and "
        "calibrate on arrays that are prepared already"
    )


def _values(processor: Any, channels: int) -> dict[str, Any]:
    """What happens to the pixels' values."""
    colours = "BGR" if getattr(processor, "do_flip_channel_order", None) else "RGB"
    offset = -1.0 if getattr(processor, "rescale_offset", None) else 0.0
    # EfficientNet's processor divides by the deviation again
    divisions = bool(processor.do_normalize) + bool(getattr(processor, "include_top", None))
    mean = processor.image_mean if processor.do_normalize else [0.0] * channels
    return {
        "mode": colours if channels == 3 else "L",
        "resample": RESAMPLES[int(processor.resample)],
        "rescale": processor.rescale_factor if processor.do_rescale else 1.0,
        "offset": offset if processor.do_rescale else 0.0,
        "mean": tuple(mean) if divisions else (),
        "std": tuple(std**divisions for std in processor.image_std) if divisions else (),
    }


def read_json(file: Path) -> dict[str, Any]:
    """The object in a file; empty where there is no file.

    Raises
    ------
    CalibrationError
        When the file is not a JSON object.
    """
    if not file.is_file():
        return {}
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CalibrationError(f"{file} is not JSON ({error}): download or save it again") from None
    if not isinstance(found, dict):
        raise CalibrationError(f"{file} holds a {type(found).__name__}, expected a JSON object")
    return found


def _sizes(processor: Any, image_size: object, file: Path) -> dict[str, Any]:
    """Height and width of the model's input, and how an image is brought to it."""
    convnext = type(processor).__name__.startswith("ConvNext")
    size = processor.size if processor.do_resize else image_size
    crop = _pair(processor.crop_size) if processor.do_center_crop else None
    edge = getattr(size, "shortest_edge", None)
    if edge and convnext:
        if edge >= CONVNEXT_FULL_SIZE:
            return {"height": edge, "width": edge}
        crop = (edge, edge)
    if edge and crop:
        shorter = int(edge / (getattr(processor, "crop_pct", None) or 1))
        return {"shortest_edge": shorter, "height": crop[0], "width": crop[1]}
    exact = _pair(size)
    if exact is None:
        raise CalibrationError(
            f"{file} gives size {size} without a crop, expected one size for all images: height "
            "and width, or shortest_edge with do_center_crop and crop_size"
        )
    height, width = crop or exact
    return {"height": height, "width": width, "resize_to": exact if crop else None}


def _pair(size: Any) -> tuple[int, int] | None:
    """(height, width) where both are known."""
    if isinstance(size, int):
        return size, size
    if isinstance(size, Sequence) and len(size) == 2:
        return size[0], size[1]
    pair = getattr(size, "height", None), getattr(size, "width", None)
    return (pair[0], pair[1]) if pair[0] and pair[1] else None
