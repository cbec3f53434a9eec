from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, features

from models.encoding import Encoded
from models.image_encoder import FORMATS, MAX_SIDE, ImageEncoder
from models.preprocessing import ImagePreprocessing, TensorSpec

IMAGENET: dict[str, Any] = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


def encoder(height: int, width: int, dtype: Any = "float32", **options: Any) -> ImageEncoder:
    preprocessing = ImagePreprocessing(height=height, width=width, **options)
    channels = 1 if preprocessing.mode == "L" else 3
    spec = TensorSpec(name="pixels", dtype=dtype, row_shape=(channels, height, width))
    return ImageEncoder(preprocessing, [spec])


def as_file(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def noise(height: int, width: int, seed: int = 0) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8))


def smooth(height: int, width: int) -> Image.Image:
    """A picture that lossy formats keep."""
    rows, columns = np.mgrid[0:height, 0:width]
    channels = [255 * rows / height, 255 * columns / width, 128 + 0 * rows]
    return Image.fromarray(np.stack(channels, axis=-1).astype(np.uint8))


def only_tensor(encoded: Encoded) -> np.ndarray:
    assert not encoded.bad
    (group,) = encoded.groups
    (tensor,) = group.tensors
    return tensor


def pixels(file: bytes, height: int, width: int, mode: str = "RGB") -> np.ndarray:
    """The 8-bit values that the model would see of an image of just its size: (H, W, C)."""
    values = only_tensor(encoder(height, width, mode=mode, rescale=1).encode([file]))[0]
    return np.moveaxis(values, 0, -1)


def png(width: int, height: int, data: bytes = b"", depth: int = 8, color: int = 2) -> bytes:
    """A PNG made by hand, so that header and data need not agree."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


# the formula


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 99))
def test_an_image_of_the_models_size_is_only_mapped(height: int, width: int, seed: int) -> None:
    image = noise(height, width, seed)
    options = {"rescale": 1 / 127.5, "offset": -1.0, **IMAGENET}
    tensor = only_tensor(encoder(height, width, **options).encode([as_file(image)]))
    mapped = np.asarray(image, np.float64) / 127.5 - 1
    expected = (mapped - IMAGENET["mean"]) / IMAGENET["std"]
    np.testing.assert_allclose(tensor[0], np.moveaxis(expected, -1, 0), atol=5e-6)


def test_bgr_is_rgb_backwards() -> None:
    image = noise(4, 5)
    np.testing.assert_array_equal(
        pixels(as_file(image), 4, 5, "BGR"), pixels(as_file(image), 4, 5)[..., ::-1]
    )


def test_grey_models_see_one_channel() -> None:
    image = noise(4, 5)
    grey = pixels(as_file(image), 4, 5, "L")
    np.testing.assert_array_equal(grey[..., 0], np.asarray(image.convert("L")))


def test_half_precision() -> None:
    tensor = only_tensor(encoder(4, 5, dtype="float16").encode([as_file(noise(4, 5))]))
    assert tensor.dtype == np.float16
    assert 0.9 < tensor.max() <= 1


def test_a_crop_larger_than_the_image_is_padded_with_black() -> None:
    values = only_tensor(
        encoder(5, 5, resize_to=(3, 2), rescale=1).encode(
            [as_file(Image.new("RGB", (2, 3), "white"))]
        )
    )[0]
    expected = np.zeros((5, 5))
    expected[1:4, 2:4] = 255
    np.testing.assert_array_equal(values, np.stack([expected] * 3))


# transformers as the reference


def hugging_face(name: str, image: Image.Image, ours: dict[str, Any], **options: Any) -> np.ndarray:
    """What the processor of a model makes of an image; mean and std are those of `ours`."""
    module = pytest.importorskip(f"transformers.models.{name}.image_processing_pil_{name}")
    class_name = {"vit": "ViT", "convnext": "ConvNext", "clip": "CLIP", "deit": "DeiT"}[name]
    if "mean" in ours:
        options |= {"image_mean": list(ours["mean"]), "image_std": list(ours["std"])}
    processor = getattr(module, f"{class_name}ImageProcessorPil")(**options)
    return np.asarray(processor(image, return_tensors="np")["pixel_values"][0])


HALF = {"mean": (0.5,) * 3, "std": (0.5,) * 3}


@pytest.mark.parametrize("size", [(37, 51), (51, 37), (1, 1), (3, 90), (16, 16), (333, 127)])
@pytest.mark.parametrize(
    ("name", "theirs", "ours"),
    [
        (
            "vit",
            {"size": {"height": 15, "width": 21}},
            {"height": 15, "width": 21, **HALF},
        ),
        (
            "vit",
            {"size": {"height": 15, "width": 15}, "do_normalize": False, "resample": 0},
            {"height": 15, "width": 15, "resample": "nearest"},
        ),
        (
            "vit",
            {
                "size": {"height": 9, "width": 9},
                "do_rescale": False,
                "resample": 1,
            },
            {
                "height": 9,
                "width": 9,
                "rescale": 1,
                "mean": (120, 110, 100),
                "std": (50, 60, 70),
                "resample": "lanczos",
            },
        ),
        (  # ResNet and ConvNeXt below 384: resize to int(size / crop_pct), then crop
            "convnext",
            {"size": {"shortest_edge": 32}, "crop_pct": 0.875},
            {"shortest_edge": 36, "height": 32, "width": 32, "resample": "bicubic", **IMAGENET},
        ),
        (
            "convnext",
            {"size": {"shortest_edge": 15}, "crop_pct": 0.95, "resample": 2},
            {"shortest_edge": 15, "height": 15, "width": 15, **IMAGENET},
        ),
        (
            "clip",
            {
                "size": {"shortest_edge": 19},
                "crop_size": {"height": 14, "width": 17},
            },
            {"shortest_edge": 19, "height": 14, "width": 17, "resample": "bicubic", **HALF},
        ),
        (  # a crop that is larger than the resized image
            "clip",
            {
                "size": {"shortest_edge": 12},
                "crop_size": {"height": 17, "width": 15},
            },
            {"shortest_edge": 12, "height": 17, "width": 15, "resample": "bicubic", **HALF},
        ),
        (
            "deit",
            {"size": {"height": 25, "width": 27}, "crop_size": {"height": 20, "width": 22}},
            {"resize_to": (25, 27), "height": 20, "width": 22, "resample": "bicubic", **IMAGENET},
        ),
    ],
)
def test_equals_the_image_processors_of_transformers(
    name: str, theirs: dict[str, Any], ours: dict[str, Any], size: tuple[int, int]
) -> None:
    image = noise(*size)
    tensor = only_tensor(encoder(**ours).encode([as_file(image)]))
    expected = hugging_face(name, image, ours, **theirs)
    np.testing.assert_allclose(tensor[0], expected, atol=1e-5)


def test_equals_convnext_at_384_where_it_does_not_crop() -> None:
    image = noise(97, 131)
    ours = encoder(384, 384, resample="bicubic", **IMAGENET).encode([as_file(image)])
    theirs = hugging_face("convnext", image, IMAGENET, size={"shortest_edge": 384})
    np.testing.assert_allclose(only_tensor(ours)[0], theirs, atol=1e-5)


# files as they come


@pytest.mark.parametrize("kind", FORMATS)
def test_every_listed_format_is_read(kind: str) -> None:
    if kind == "WEBP" and not features.check("webp"):
        pytest.skip("this Pillow was built without WEBP")
    image = smooth(24, 32)
    difference = pixels(as_file(image, kind), 24, 32) - np.asarray(image, np.float32)
    assert np.abs(difference).mean() < 8


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_pictures_stand_upright(kind: str, orientation: int) -> None:
    upright = smooth(16, 24)
    undo = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[orientation]
    stored = upright if undo is None else upright.transpose(undo)
    exif = Image.Exif()
    exif[0x0112] = orientation
    difference = pixels(as_file(stored, kind, exif=exif), 16, 24) - np.asarray(upright, np.float32)
    assert np.abs(difference).mean() < 4


@pytest.mark.filterwarnings("ignore:.*EXIF")
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("exif", [b"Exif\0\0garbage", b"Exif\0\0MM\0*\xff\xff\xff\xff", b"x"])
def test_damaged_exif_leaves_the_picture_as_it_is(kind: str, exif: bytes) -> None:
    image = smooth(16, 24)
    np.testing.assert_array_equal(
        pixels(as_file(image, kind, exif=exif), 16, 24), pixels(as_file(image, kind), 16, 24)
    )


def test_transparent_parts_are_white() -> None:
    image = Image.new("RGBA", (3, 1))
    image.putdata([(200, 0, 0, 255), (200, 0, 0, 0), (200, 0, 0, 51)])
    seen = pixels(as_file(image), 1, 3)
    assert seen[0].tolist() == [[200, 0, 0], [255, 255, 255], [244, 204, 204]]


def test_a_palette_with_transparency() -> None:
    image = Image.new("P", (3, 1))
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    image.putdata([0, 1, 2])
    for transparency in (1, b"\xff\x00\xff"):
        seen = pixels(as_file(image, transparency=transparency), 1, 3)
        assert seen[0].tolist() == [[10, 20, 30], [255, 255, 255], [70, 80, 90]]


def test_grey_with_alpha_and_black_and_white() -> None:
    image = Image.new("LA", (2, 1))
    image.putdata([(7, 255), (7, 0)])
    assert pixels(as_file(image), 1, 2, "L").ravel().tolist() == [7, 255]
    bits = Image.new("1", (2, 1))
    bits.putdata([0, 255])
    assert pixels(as_file(bits), 1, 2)[0].tolist() == [[0, 0, 0], [255, 255, 255]]


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_sixteen_bits_keep_the_high_byte(mode: str) -> None:
    values = np.array([[0, 255, 256, 0x1234, 0xFFFF]], np.uint16)
    image = Image.fromarray(values)
    seen = pixels(as_file(image), 1, 5, mode)
    assert seen[0, :, 0].tolist() == [0, 0, 1, 0x12, 255]
    seen = pixels(as_file(image, transparency=0x1234), 1, 5, mode)
    assert seen[0, :, 0].tolist() == [0, 0, 1, 255, 255]


def test_sixteen_bits_of_colour_keep_the_high_byte() -> None:
    file = png(1, 1, b"\0" + struct.pack(">HHH", 0x1234, 0x00FF, 0xFFFF), depth=16)
    assert pixels(file, 1, 1).ravel().tolist() == [0x12, 0, 255]


def test_cmyk_becomes_rgb() -> None:
    image = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    seen = pixels(as_file(image, "JPEG", quality=95), 16, 16)
    np.testing.assert_allclose(seen, np.broadcast_to([255.0, 0, 0], seen.shape), atol=6)


def test_colour_profiles_are_ignored() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    image = noise(4, 5)
    np.testing.assert_array_equal(pixels(as_file(image, icc_profile=profile), 4, 5), image)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_the_first_frame_of_an_animation_counts(kind: str) -> None:
    first, second = Image.new("RGB", (4, 4), "red"), Image.new("RGB", (4, 4), "blue")
    lossless = {"lossless": True} if kind == "WEBP" else {}
    file = as_file(first, kind, save_all=True, append_images=[second], **lossless)
    assert pixels(file, 4, 4)[0, 0].tolist() == [255, 0, 0]


def test_one_pixel_fills_the_models_input() -> None:
    tensor = only_tensor(
        encoder(6, 7, shortest_edge=9, rescale=1).encode([as_file(Image.new("RGB", (1, 1), "red"))])
    )
    np.testing.assert_array_equal(tensor[0, 0], np.full((6, 7), 255))
    assert not tensor[0, 1:].any()


# files that are none


def fault(file: Any, **options: Any) -> str:
    """Why a row is bad; its neighbours are not."""
    good = as_file(noise(3, 3))
    encoded = encoder(3, 3, **options).encode([good, file, good])
    assert list(encoded.bad) == [1]
    assert encoded.groups[0].rows.tolist() == [0, 2]
    alone = only_tensor(encoder(3, 3, **options).encode([good]))
    np.testing.assert_array_equal(encoded.groups[0].tensors[0], np.concatenate([alone, alone]))
    for word in ("Error", "PIL", "BytesIO", "Traceback"):
        assert word not in encoded.bad[1]
    return encoded.bad[1]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("text", "found a str; expected the bytes of an image file, one of JPEG, PNG"),
        (None, "found a NoneType"),
        (b"", "found no bytes, no image that can be read"),
        (b"hello world", "found 11 bytes that begin with b'hello wo', no image"),
        (as_file(noise(3, 3), "TIFF"), "expected a whole file, one of JPEG, PNG, WEBP, BMP, GIF"),
        (as_file(noise(3, 3), "PPM"), "begin with b'P6\\n3 3\\n2'"),
    ],
)
def test_what_is_no_image_is_bad_alone(row: Any, message: str) -> None:
    assert message in fault(row)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "GIF"])
def test_files_that_are_cut_short_are_bad_alone(kind: str) -> None:
    file = as_file(noise(60, 40), kind)
    assert f"found a {kind} of 40 x 60 pixels that is cut short" in fault(file[: len(file) // 2])


def test_a_header_alone_is_bad() -> None:
    assert "expected a whole file" in fault(as_file(noise(60, 40), "WEBP")[:500])
    assert "expected a whole file" in fault(as_file(noise(60, 40), "JPEG")[:20])


def test_damaged_data_is_bad() -> None:
    file = bytearray(as_file(noise(60, 40)))
    file[200:260] = b"x" * 60
    assert "found a PNG of 40 x 60 pixels that is damaged" in fault(bytes(file))


@settings(deadline=None, max_examples=150)
@given(
    st.sampled_from(FORMATS),
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.binary(min_size=1, max_size=4))),
    st.floats(0, 1),
)
def test_no_bytes_break_the_encoder(
    kind: str, changes: list[tuple[float, bytes]], kept: float
) -> None:
    file = bytearray(as_file(noise(9, 7), kind))
    for place, change in changes:
        begin = int(place * len(file))
        file[begin : begin + len(change)] = change
    encoded = encoder(3, 3).encode([bytes(file[: int(kept * len(file)) + 1])])
    assert len(encoded.groups) + len(encoded.bad) == 1


@pytest.mark.parametrize(
    ("width", "height"), [(8000, 8000), (9000, 9000), (12_000, 12_000), (60_000, 60_000)]
)
def test_a_decompression_bomb_is_refused_by_its_header(width: int, height: int) -> None:
    file = png(width, height, b"\0" * 1_000_000)
    assert "expected at most 50,000,000 pixels" in fault(file)


def test_the_limit_of_pixels_is_exact() -> None:
    file = as_file(noise(10, 10))
    assert "found an image of 10 x 10 pixels; expected at most 99 pixels" in fault(
        file, max_pixels=99
    )
    assert not encoder(3, 3, max_pixels=100).encode([file]).bad


def test_very_narrow_images_do_not_grow_without_bound() -> None:
    assert "65,535 a side" in fault(png(MAX_SIDE + 1, 1, b"\0" * 3 * (MAX_SIDE + 2)))
    narrow = as_file(Image.new("RGB", (1, 1000)))
    assert "found an image of 1 x 1000 pixels, too narrow" in fault(
        narrow, shortest_edge=10, max_pixels=99_999
    )
    assert not encoder(3, 3, shortest_edge=10, max_pixels=100_000).encode([narrow]).bad
