"""A part of the data: the rows of one file, still to be joined with those of other files."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np

from calibration.checks import listed
from calibration.dataset import Dataset
from calibration.label_sets import sorted_names
from models.encoding import RawRows
from models.errors import CalibrationError

T = TypeVar("T")


@dataclass(frozen=True)
class Part:
    """Rows of one file or folder.

    path : where they were read from
    data : the rows
    features : what the numbers of a row are, in their order; must be the same in every part
    open_names : whether the labels are just those that occur, so that another part may have more
    """

    path: Path
    data: Dataset
    features: tuple[str, ...] = ()
    open_names: bool = False


def join(parts: Sequence[Part]) -> Dataset:
    """All rows of all parts, in the order of the parts, under one list of label names.

    Raises
    ------
    CalibrationError
        When the parts differ in kind, features or (where they are not open) label names.
    """
    first = parts[0]
    for part in parts[1:]:
        _check_alike(first, part)
    names = first.data.names
    if first.open_names:
        names = sorted_names({name for part in parts for name in part.data.names})
    ends = np.cumsum([len(part.data) for part in parts])
    labels = np.zeros((int(ends[-1]), len(names)), bool)
    for part, end in zip(parts, ends, strict=True):
        columns = [names.index(name) for name in part.data.names]
        labels[end - len(part.data) : end, columns] = part.data.labels

    def read(size: int) -> Iterator[RawRows]:
        for part in parts:
            yield from _read(part, size)

    def place(row: int) -> str:
        number = int(np.searchsorted(ends, row, side="right"))
        data = parts[number].data
        return data.place(row - int(ends[number]) + len(data))

    return Dataset(
        kind=first.data.kind,
        labels=labels,
        names=names,
        read=read,
        digest=_joint_digest([part.data.digest for part in parts]),
        split=np.concatenate([part.data.split for part in parts]),
        place=place,
    )


def chunks(rows: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of `size` rows; the last may be shorter."""
    iterator = iter(rows)
    while chunk := list(islice(iterator, size)):
        yield chunk


def numbered(path: Path, numbers: Sequence[int], unit: str = "line") -> Callable[[int], str]:
    """How a row is called after the file's own count, e.g. `comments.tsv, line 3`.

    Parameters
    ----------
    numbers : (n,), the line (or whatever the unit is) that each row is on
    """
    lines = np.asarray(numbers, np.uint32)

    def place(row: int) -> str:
        return f"{path.name}, {unit} {lines[row]}"

    return place


def file_digest(path: Path, *choices: object) -> str:
    """sha256 of a file's bytes and of the choices that decide which rows are read from it."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
    digest.update(repr(choices).encode())
    return digest.hexdigest()


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Say in the user's words why a file or folder cannot be read."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise CalibrationError(
            f"{path} is not in UTF-8 ({error.reason}: byte 0x{error.object[error.start]:02x}): "
            "convert it, e.g. with iconv"
        ) from error
    except OSError as error:
        raise CalibrationError(
            f"{error.filename or path} cannot be read ({error.strerror or error}): check the path "
            "and its permissions"
        ) from error


def _read(part: Part, size: int) -> Iterator[RawRows]:
    """Chunks of a part, as many rows as it has labels for."""
    rows = 0
    with reading(part.path):
        for chunk in part.data.read(size):
            rows += len(chunk)
            yield chunk
    if rows != len(part.data):
        raise CalibrationError(
            f"{part.path} changed while it was read: {len(part.data)} rows before, {rows} now; "
            "start again and leave it alone"
        )


def _check_alike(first: Part, other: Part) -> None:
    if other.data.kind != first.data.kind:
        raise CalibrationError(
            f"{other.path} has rows of kind {other.data.kind}, {first.path} has "
            f"{first.data.kind}: all splits must hold the same kind of rows"
        )
    if other.features != first.features:
        raise CalibrationError(
            f"{other.path} and {first.path} differ in their features: "
            f"{_difference(other.features, first.features)}; expected the same ones in the same "
            "order"
        )
    ours, theirs = set(first.data.names), set(other.data.names)
    if ours != theirs and not (first.open_names and other.open_names):
        raise CalibrationError(
            f"{other.path} and {first.path} differ in their labels: only one of them has "
            f"{listed(sorted(ours ^ theirs))}; expected the same label names in every split"
        )


def _difference(ours: tuple[str, ...], theirs: tuple[str, ...]) -> str:
    if len(ours) != len(theirs):
        return f"{len(ours)} against {len(theirs)}"
    pairs = zip(ours, theirs, strict=True)
    return next(f"{one!r} against {other!r}" for one, other in pairs if one != other)


def _joint_digest(digests: Sequence[str]) -> str:
    if len(digests) == 1:
        return digests[0]
    return hashlib.sha256("".join(digests).encode()).hexdigest()
