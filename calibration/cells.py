"""Cells of a table, checked: as texts, images, numbers or 0/1 flags."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from calibration.image_files import image_stamp, read_image, resolve_image
from models.errors import CalibrationError

FLAGS = {"0": False, "1": True, "0.0": False, "1.0": True, "false": False, "true": True}


def text_cell(cell: Any, place: str) -> str:
    """A text; an empty one is a text too."""
    if isinstance(cell, str):
        return cell
    raise CalibrationError(f"{place} has {cell!r} as its text: expected a string")


def image_cell(cell: Any, folder: Path, place: str) -> bytes:
    """The encoded image that a cell holds, or whose path relative to `folder` it holds."""
    content = _inline_image(cell)
    return content if content is not None else read_image(_image(cell, folder, place), place)


def stamp_cell(cell: Any, folder: Path, place: str) -> bytes:
    """What tells that an image outside the table is still the same; checks that it is there."""
    return (
        b"" if _inline_image(cell) is not None else image_stamp(_image(cell, folder, place), place)
    )


def number_cells(cells: Sequence[Any], names: Sequence[str], place: str) -> np.ndarray:
    """Numbers: float32 (d,); null becomes NaN.

    Parameters
    ----------
    cells : (d,) numbers, or texts that are numbers
    names : (d,) names of their columns
    """
    try:
        numbers = np.array(cells, np.float32)
        if numbers.ndim == 1:
            return numbers
    except (TypeError, ValueError, OverflowError):
        pass
    pairs = zip(names, cells, strict=True)
    name, cell = next(pair for pair in pairs if not _is_number(pair[1]))
    raise CalibrationError(
        f"{place} has {cell!r} in the column {name!r}: expected a number, as in the first row; "
        "features are numbers, encode or remove what is not"
    )


def flag_cells(cells: Sequence[Any], names: Sequence[str], place: str) -> list[int]:
    """Positions of the 1s among 0/1 cells; true and false are understood too."""
    flags = [FLAGS.get(str(cell).strip().casefold()) for cell in cells]
    if None in flags:
        wrong = flags.index(None)
        raise CalibrationError(
            f"{place} has {cells[wrong]!r} in the label column {names[wrong]!r}: expected 0 or 1; "
            "where one column holds whole label sets, it must be the only one of --labels"
        )
    return [position for position, flag in enumerate(flags) if flag]


def _inline_image(cell: Any) -> bytes | None:
    """The content of a cell that holds an image itself, bare or as Hugging Face data sets do."""
    content = cell.get("bytes") if isinstance(cell, dict) else cell
    return content if isinstance(content, bytes) else None


def _image(cell: Any, folder: Path, place: str) -> Path:
    if not isinstance(cell, str):
        raise CalibrationError(
            f"{place} has {cell!r} as its image: expected a path relative to {folder}, or (in a "
            ".parquet file) the encoded image"
        )
    return resolve_image(folder, cell, place)


def _is_number(cell: Any) -> bool:
    try:
        return np.array(cell, np.float32).ndim == 0
    except (TypeError, ValueError, OverflowError):
        return False
