"""Rows out of the files that `offramp predict` is given."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cli.predict_client import Taken
from models.errors import InvalidInput

STDIN = "-"
LINES = {"text": (".txt", ".jsonl"), "numbers": (".csv", ".jsonl")}
ARRAYS = (".npy", ".npz")


@dataclass(frozen=True)
class Row:
    """One row, or what is wrong with it.

    number : its place in the file, from 0
    value : bytes, or an array; None where it cannot be read
    """

    file: str
    number: int
    value: Any
    error: str = ""


def check_files(files: Sequence[str], taken: Taken) -> None:
    """Refuse files that are not there, or that cannot hold what the model takes.

    Raises
    ------
    InvalidInput
        Names the file, and what the model takes.
    """
    for file in files:
        if file == STDIN:
            if taken.kind == "image":
                raise InvalidInput("-: standard input holds lines, but the model takes image files")
            continue
        if not Path(file).is_file():
            raise InvalidInput(f"{file}: found no such file")
        if Path(file).suffix not in _suffixes(taken.kind) and taken.kind != "image":
            raise InvalidInput(
                f"{file}: the model takes {taken.kind}, expected a file that ends in "
                f"{', '.join(_suffixes(taken.kind))}"
            )


def count_rows(files: Sequence[str], taken: Taken) -> int | None:
    """How many there will be; None where it is not known before they are read."""
    if STDIN in files:
        return None
    if taken.kind == "image":
        return len(files)
    return sum(_count(Path(file)) for file in files)


def rows_of(files: Sequence[str], taken: Taken) -> Iterator[Row]:
    """The rows of all files, one after another; a file that cannot be read is one bad row."""
    for file in files:
        read = 0
        try:
            for row in _rows(file, taken):
                yield row
                read += 1
        except (OSError, ValueError, InvalidInput) as error:
            yield Row(file, read, None, f"cannot be read: {error}")


def _rows(file: str, taken: Taken) -> Iterator[Row]:
    if taken.kind == "image":
        yield Row(file, 0, Path(file).read_bytes())
    elif Path(file).suffix in ARRAYS:
        for number, row in enumerate(_array(Path(file))):
            yield _checked(file, number, row, taken)
    else:
        suffix = Path(file).suffix
        for number, line in enumerate(_lines(file)):
            yield _line_row(file, number, line, suffix, taken)


def _line_row(file: str, number: int, line: str, suffix: str, taken: Taken) -> Row:
    try:
        if taken.kind == "text":
            return Row(file, number, (_text(line) if suffix == ".jsonl" else line).encode())
        comma = suffix == ".csv" or (file == STDIN and not line.startswith("["))
        return _checked(file, number, line.split(",") if comma else json.loads(line), taken)
    except (ValueError, TypeError) as error:
        return Row(file, number, None, f"found {line[:40]!r}: {error}")


def _text(line: str) -> str:
    value = json.loads(line)
    text = value.get("text") if isinstance(value, dict) else value
    if not isinstance(text, str):
        raise ValueError("expected an object with 'text', or a text")
    return text


def _checked(file: str, number: int, values: Any, taken: Taken) -> Row:
    """Numbers in the type and the shape of the model's input; flat ones are given its shape."""
    from tritonclient.utils import triton_to_np_dtype

    try:
        row = np.asarray(values, triton_to_np_dtype(taken.datatype))
    except (ValueError, TypeError):
        return Row(file, number, None, f"found {str(values)[:40]}, expected numbers")
    wanted = taken.row_shape
    if row.ndim == 1 and -1 not in wanted and row.size == np.prod(wanted):
        row = row.reshape(wanted)
    fits = row.ndim == len(wanted) and all(
        size in (found, -1) for found, size in zip(row.shape, wanted, strict=True)
    )
    if not fits:
        expected = list(wanted)
        return Row(
            file, number, None, f"found numbers of shape {list(row.shape)}, expected {expected}"
        )
    return Row(file, number, row)


def _lines(file: str) -> Iterator[str]:
    if file == STDIN:
        yield from (line.rstrip("\r\n") for line in sys.stdin)
        return
    with Path(file).open(encoding="utf-8", newline=None) as lines:
        yield from (line.rstrip("\n") for line in lines)


def _array(file: Path) -> Any:
    if file.suffix == ".npy":
        return np.load(file, mmap_mode="r", allow_pickle=False)
    with np.load(file, allow_pickle=False) as archive:
        if "x" not in archive:
            raise InvalidInput(f"found the arrays {', '.join(archive)}, expected 'x'")
        return archive["x"]


def _count(file: Path) -> int:
    if file.suffix in ARRAYS:
        try:
            return len(_array(file))
        except (OSError, ValueError, TypeError, InvalidInput):
            return 1  # the row that says so
    with file.open("rb") as lines:
        return sum(1 for _ in lines)


def _suffixes(kind: str) -> tuple[str, ...]:
    return (*LINES.get(kind, ()), *(ARRAYS if kind == "numbers" else ()))
