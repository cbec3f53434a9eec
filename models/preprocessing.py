"""Preprocessing as it is recorded in a bundle: how raw rows become the model's input tensors.

The specifications only; the code that follows them is in `models.encoders`, offline and online.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from models.record import Record

Positive = Annotated[int, Field(gt=0)]
PositiveFloat = Annotated[float, Field(gt=0)]

TOKENIZER = "tokenizer.json"
PILLOW_PIXELS = 89_478_485  # Pillow warns of a decompression bomb above it


class TensorSpec(Record):
    """One input tensor of the model."""

    name: str
    dtype: Literal["float32", "float16", "int64", "int32", "bool"] = "float32"
    row_shape: tuple[Positive | None, ...]
    """Shape of one row, without the batch dimension; None where it varies, as with tokens."""


class NumberPreprocessing(Record):
    """Rows are numbers in the shape of the model's one input; (x - mean) / scale where given."""

    kind: Literal["numbers"] = "numbers"
    mean: tuple[float, ...] = ()
    """One per column of rows that are vectors; empty: the numbers are taken as they are."""
    scale: tuple[PositiveFloat, ...] = ()


class TextPreprocessing(Record):
    """Rows are texts, tokenized by `tokenizer.json` and padded to length buckets."""

    kind: Literal["text"] = "text"
    max_tokens: Positive
    """Longer texts are truncated to it, special tokens included."""
    pad_id: Annotated[int, Field(ge=0)] = 0
    pad_type_id: Annotated[int, Field(ge=0)] = 0


class ImagePreprocessing(Record):
    """Rows are encoded images (JPEG, PNG, ...): rotated by EXIF, resized, cropped, normalised.

    A value v of a channel, 0 to 255, becomes ((v * rescale + offset) - mean) / std.
    """

    kind: Literal["image"] = "image"
    mode: Literal["RGB", "BGR", "L"] = "RGB"
    shortest_edge: Positive | None = None
    """Resize the shorter side to it, keeping the aspect; None: resize to `resize_to` exactly."""
    resize_to: tuple[Positive, Positive] | None = None
    """(height, width) before the centre crop, where it is not the size of the model's input."""
    height: Positive
    width: Positive
    """Size of the model's input, by a centre crop where the resized image has another size.

    A resized image that is smaller is padded with black.
    """
    resample: Literal["nearest", "lanczos", "bilinear", "bicubic", "box", "hamming"] = "bilinear"
    rescale: PositiveFloat = 1 / 255
    offset: float = 0.0
    """Added after rescaling, e.g. -1 for a range of -1 to 1."""
    mean: tuple[float, ...] = ()
    std: tuple[PositiveFloat, ...] = ()
    """Per channel, after rescaling; empty: not normalised."""
    max_pixels: Annotated[int, Field(gt=0, le=PILLOW_PIXELS)] = 50_000_000
    """Larger images are refused before they are decoded."""

    @model_validator(mode="after")
    def _is_resized_once(self) -> ImagePreprocessing:
        if self.shortest_edge is not None and self.resize_to is not None:
            raise ValueError("shortest_edge and resize_to exclude each other: give one of them")
        return self


Preprocessing = Annotated[
    NumberPreprocessing | TextPreprocessing | ImagePreprocessing, Field(discriminator="kind")
]
