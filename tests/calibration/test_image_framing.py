from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import pytest
from PIL import Image

from calibration.dataset import TO_BE_DRAWN, Dataset
from calibration.image_framing import frame_images
from models.errors import CalibrationError


def encode(width: int, height: int, mode: str = "RGB", orientation: int = 1) -> bytes:
    image, content = Image.new(mode, (width, height)), io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(content, "PNG", exif=exif)
    return content.getvalue()


def dataset(images: Sequence[bytes]) -> Dataset:
    n = len(images)
    return Dataset(
        "image", np.zeros((n, 1), bool), ("a",), lambda size: iter([list(images)]), "0" * 64,
        np.full(n, TO_BE_DRAWN, np.int8), str,
    )  # fmt: skip


def test_images_of_one_size_are_taken_as_they_are() -> None:
    found = frame_images(dataset([encode(40, 24)] * 3), None)
    assert (found.mode, found.height, found.width) == ("RGB", 24, 40)
    assert found.shortest_edge is None


def test_images_are_grey_if_all_are() -> None:
    grey = [encode(20, 20, "L"), encode(20, 20, "1")]
    assert frame_images(dataset(grey), None).mode == "L"
    assert frame_images(dataset([*grey, encode(20, 20)]), None).mode == "RGB"


def test_a_size_that_is_given_goes_first() -> None:
    found = frame_images(dataset([encode(40, 24), encode(900, 700)]), (64, 48))
    assert (found.height, found.width) == (64, 48)


def test_the_camera_s_orientation_counts() -> None:
    found = frame_images(dataset([encode(40, 24, orientation=6)]), None)
    assert (found.height, found.width) == (40, 24)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([encode(40, 24), encode(40, 30)], "24x40 to 30x40 pixels"),
        ([encode(500, 300)], "300x500 pixels"),
        ([b"no image"], "none of the first 64 images can be opened"),
    ],
)
def test_a_size_is_asked_for_where_there_is_none(images: list[bytes], message: str) -> None:
    with pytest.raises(CalibrationError, match=message):
        frame_images(dataset(images), None)
