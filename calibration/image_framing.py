"""The framing of images: one size and mode for all of a data set."""

from __future__ import annotations

import io
from collections.abc import Iterable
from itertools import islice
from typing import Literal

from calibration.dataset import Dataset
from models.errors import CalibrationError
from models.preprocessing import ImagePreprocessing

SAMPLE = 64  # images that are looked at
LARGEST_SIDE = 256  # pixels that are taken as they are
GREY_MODES = {"1", "L", "I;16"}


def frame_images(dataset: Dataset, size: tuple[int, int] | None) -> ImagePreprocessing:
    """How images become the network's input: grey if all are, at the size that they have.

    Parameters
    ----------
    size : height and width that every image is resized to; None: that of the first images

    Raises
    ------
    CalibrationError
        When no size is given and they differ, or are too large to be taken as they are.
    """
    found = list(_looks(islice(next(dataset.read(SAMPLE)), SAMPLE)))
    mode: Literal["RGB", "L"] = (
        "L" if found and all(of_image in GREY_MODES for _, of_image in found) else "RGB"
    )
    height, width = size or _common_size({size for size, _ in found})
    return ImagePreprocessing(mode=mode, height=height, width=width)


def _looks(images: Iterable[object]) -> Iterable[tuple[tuple[int, int], str]]:
    """(height, width) and mode of those that can be opened; the encoder refuses the others."""
    from PIL import Image, ImageOps

    for content in images:
        try:
            with Image.open(io.BytesIO(content)) as image:  # type: ignore[arg-type]
                upright = ImageOps.exif_transpose(image)
                yield (upright.height, upright.width), upright.mode
        except (OSError, ValueError, TypeError):
            continue


def _common_size(sizes: set[tuple[int, int]]) -> tuple[int, int]:
    if not sizes:
        raise CalibrationError(
            f"none of the first {SAMPLE} images can be opened: expected PNG, JPEG or the like; "
            "check the files"
        )
    smallest, largest = min(sizes), max(sizes)
    if len(sizes) > 1 or max(largest) > LARGEST_SIDE:
        found = " to ".join(f"{height}x{width}" for height, width in sorted({smallest, largest}))
        raise CalibrationError(
            f"the images are {found} pixels large, and one size of at most "
            f"{LARGEST_SIDE}x{LARGEST_SIDE} was expected: say to which height and width to resize "
            "them with --image-size"
        )
    return largest
