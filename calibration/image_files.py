"""Image files that a data set refers to: checked up front, read one at a time."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from models.errors import CalibrationError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")


def resolve_image(folder: Path, name: str, place: str) -> Path:
    """Where an image lies that a table names relative to its folder.

    Raises
    ------
    CalibrationError
        When the name is empty, absolute, or leaves the folder through `..`.
    """
    normal = os.path.normpath(name)
    if not name or os.path.isabs(normal) or normal.split(os.sep)[0] in {os.curdir, os.pardir}:
        raise CalibrationError(
            f"{place} names the image {name!r}: expected a path inside {folder}, relative to it"
        )
    return folder / normal


def image_stamp(path: Path, place: str) -> bytes:
    """What tells that an image file is still the same, from one look at its directory entry.

    Size and time of change, not the content: hashing would read every image once more.

    Raises
    ------
    CalibrationError
        When there is no such file.
    """
    try:
        found = path.stat()
    except (OSError, ValueError) as error:
        raise CalibrationError(
            f"{place}: there is no image at {path} ({error}); expected a file with an encoded "
            "image; restore it, or remove the row"
        ) from error
    if not stat.S_ISREG(found.st_mode):
        raise CalibrationError(f"{place}: {path} is not a file: expected an encoded image")
    return f"{path.name} {found.st_size} {found.st_mtime_ns}\n".encode()


def read_image(path: Path, place: str) -> bytes:
    """The bytes of an image file, still encoded."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise CalibrationError(
            f"{place}: the image {path} can no longer be read ({error.strerror}); restore it and "
            "start again"
        ) from error
