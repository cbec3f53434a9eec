"""Image files that are damaged, lie about their size, or are none."""

from __future__ import annotations

import base64
import json
import struct
import zlib
from io import BytesIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.fuzz.rounds import Repeat, any_request
from tests.fuzz.target import Target
from tests.small_bundles import small_image

pytestmark = pytest.mark.slow

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF")


def png_of(width: int, height: int, content: bytes = b"") -> bytes:
    """A PNG that says it has this size, whatever it holds."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(content)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )


def flat_png(side: int) -> bytes:
    """A large image in few bytes."""
    file = BytesIO()
    Image.new("1", (side, side)).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize(
    "image",
    [
        png_of(2**31 - 1, 2**31 - 1),
        png_of(60_000, 60_000),
        png_of(1, 2**31 - 1),
        png_of(0, 0),
        png_of(8, 8, bytes(2**22)),
        flat_png(12_000),
        b"GIF89a\xff\xff\xff\xff" + bytes(20),
        b"BM" + bytes(4) + bytes(4) + struct.pack("<IIiiHH", 54, 40, -1, -(2**31), 1, 24),
    ],
    ids=["largest", "large", "narrow", "empty", "too much", "flat", "gif", "bmp"],
)
@pytest.mark.parametrize("form", ["json", "bare"])
def test_bombs(targets: dict[str, Target], image: bytes, form: str) -> None:
    target = targets["image"]
    if form == "bare":
        target.fire("/predict", image, {"content-type": "image/png"})
    else:
        target.fire("/predict", json.dumps({"rows": [base64.b64encode(image).decode()]}).encode())


@pytest.mark.parametrize("form", FORMATS)
def test_damaged_images(targets: dict[str, Target], form: str, repeat: Repeat) -> None:
    image = small_image(side=32, form=form)
    places = st.integers(0, min(200, len(image)) - 1) | st.integers(0, len(image) - 1)
    edits = st.lists(st.tuples(places, st.integers(0, 255)), max_size=6)

    @any_request
    @given(edits, st.just(len(image)) | st.integers(0, len(image)), st.just(b"") | st.binary())
    def round_(edited: list[tuple[int, int]], cut: int, added: bytes) -> None:
        damaged = bytearray(image)
        for place, value in edited:
            damaged[place] = value
        content = bytes(damaged[:cut]) + added
        targets["image"].fire("/predict", content, {"content-type": "image/any"})

    repeat(round_)


def test_forms(targets: dict[str, Target], repeat: Repeat) -> None:
    image = small_image()
    part = b'--b\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n' + image
    pieces = st.sampled_from(
        [part, b"\r\n", b"--b", b"--b--\r\n", b"--", b'; name="policy"', b"\r\n\r\nfull", b"\x00"]
    )

    @any_request
    @given(
        st.lists(pieces | st.binary(max_size=6), max_size=12).map(b"".join),
        st.sampled_from(["b", "", '"', "c", "b" * 300, "b; charset=utf-7", "b; boundary=c"]),
    )
    def round_(body: bytes, boundary: str) -> None:
        headers = {"content-type": f"multipart/form-data; boundary={boundary}"}
        targets["image"].fire("/predict", body, headers)

    repeat(round_)
