"""Rows from a NumPy archive: `x` (n, ...), `y` (n, L), and label names where it has them."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np

from calibration.checks import as_flags, check_lengths, check_names, listed
from calibration.dataset import TO_BE_DRAWN, Dataset
from calibration.label_sets import read_label_names
from calibration.parts import Part, file_digest
from models.errors import CalibrationError

if TYPE_CHECKING:
    from calibration.readers import DataOptions

NAME_ARRAYS = ("labels", "names")
ROWS_AT_ONCE = 4096


@dataclass(frozen=True)
class _Stored:
    """An array as its header in the archive describes it."""

    name: str
    dtype: np.dtype
    shape: tuple[int, ...]


def read_npz(path: Path, options: DataOptions) -> Part:
    """Open the rows of an `.npz` file, written by `np.savez` or `np.savez_compressed`.

    `x` holds numbers (n, ...) and is read from the archive in chunks, never as a whole; `y` holds
    0 and 1 or booleans (n, L). Label names come from the array `labels` or `names` (strings), else
    from `options.label_names`, else they are "0" to "L-1".

    Raises
    ------
    CalibrationError
        When an array is missing, has the wrong shape or type, or would need pickle.
    """
    options.refuse_columns(path)
    with _archive(path) as archive:
        x, y = (_stored(archive, name, path) for name in ("x", "y"))
        _check_arrays(x, y, path)
        names = _names(archive, y.shape[1], path, options)
    check_names(names, str(path))
    place = f"{path.name}, row {{}}".format
    data = Dataset(
        kind="numbers",
        labels=_labels(path, y, names, place),
        names=names,
        read=partial(_chunks, path, x),
        digest=file_digest(path),
        split=np.full(y.shape[0], TO_BE_DRAWN, np.int8),
        place=place,
    )
    return Part(path, data, features=(f"x of shape (n, {', '.join(map(str, x.shape[1:]))})",))


@contextmanager
def _archive(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise CalibrationError(
            f"{path} is not a whole NumPy archive ({error}): expected a file that np.savez wrote"
        ) from error


def _stored(archive: zipfile.ZipFile, name: str, path: Path) -> _Stored:
    if f"{name}.npy" not in archive.namelist():
        arrays = [member.removesuffix(".npy") for member in archive.namelist()]
        raise CalibrationError(
            f"{path} has no array {name!r}, it has {listed(arrays) or 'none'}: expected x (n, ...) "
            "and y (n, L), as written by np.savez(path, x=..., y=...)"
        )
    with archive.open(f"{name}.npy") as member:
        shape, by_columns, dtype = _header(member, name, path)
    if dtype.kind not in "biuf":
        raise CalibrationError(
            f"{name} of {path} is of type {dtype}: expected numbers or booleans; nothing is "
            "unpickled, and texts belong into a table (.csv, .tsv, .jsonl, .parquet)"
        )
    if by_columns and len(shape) > 1:
        raise CalibrationError(
            f"{name} of {path} is stored column by column, so its rows cannot be streamed: save "
            f"np.ascontiguousarray({name})"
        )
    return _Stored(name, dtype, shape)


def _header(member: IO[bytes], name: str, path: Path) -> tuple[tuple[int, ...], bool, np.dtype]:
    try:
        version = np.lib.format.read_magic(member)
        if version == (1, 0):
            return np.lib.format.read_array_header_1_0(member)
        if version == (2, 0):
            return np.lib.format.read_array_header_2_0(member)
    except ValueError as error:
        raise CalibrationError(f"{name} of {path} is not a NumPy array ({error})") from error
    raise CalibrationError(
        f"{name} of {path} has the format version {version}: expected 1.0 or 2.0, as plain arrays "
        "of numbers have"
    )


def _check_arrays(x: _Stored, y: _Stored, path: Path) -> None:
    if len(x.shape) < 2 or not all(x.shape[1:]):
        raise CalibrationError(
            f"x of {path} has shape {x.shape}: expected (n, ...), at least one number per row"
        )
    if len(y.shape) != 2:
        raise CalibrationError(
            f"y of {path} has shape {y.shape}: expected (n, L), 0 or 1 for every label of every row"
        )
    check_lengths(x.shape[0], y.shape[0], str(path))


def _names(
    archive: zipfile.ZipFile, count: int, path: Path, options: DataOptions
) -> tuple[str, ...]:
    found = [name for name in NAME_ARRAYS if f"{name}.npy" in archive.namelist()]
    if len(found) > 1:
        raise CalibrationError(
            f"{path} has label names twice, in {' and '.join(found)}: keep one of them"
        )
    if found:
        names = _read_names(archive, found[0], path)
    elif options.label_names:
        names = read_label_names(options.label_names)
    else:
        return tuple(str(number) for number in range(count))
    if len(names) != count:
        raise CalibrationError(
            f"y of {path} has {count} labels, but there are {len(names)} label names in "
            f"{found[0] if found else options.label_names}: expected one per column of y"
        )
    return names


def _read_names(archive: zipfile.ZipFile, name: str, path: Path) -> tuple[str, ...]:
    with archive.open(f"{name}.npy") as member:
        shape, _, dtype = _header(member, name, path)
    if dtype.kind != "U" or len(shape) != 1:
        raise CalibrationError(
            f"{name} of {path} is an array of type {dtype} and shape {shape}: expected L label "
            "names, np.array(names, dtype=str); label sets belong into y"
        )
    with archive.open(f"{name}.npy") as member:
        return tuple(np.lib.format.read_array(member, allow_pickle=False).tolist())


def _labels(
    path: Path, y: _Stored, names: tuple[str, ...], place: Callable[[int], str]
) -> np.ndarray:
    labels = np.empty(y.shape, bool)
    start = 0
    for values in _chunks(path, y, ROWS_AT_ONCE):
        end = start + len(values)
        labels[start:end] = as_flags(values, names, place, start)
        start = end
    return labels


def _chunks(path: Path, stored: _Stored, size: int) -> Iterator[np.ndarray]:
    """Rows of one array, `size` at a time, decompressed as they are asked for."""
    total = stored.shape[0]
    row_bytes = stored.dtype.itemsize * int(np.prod(stored.shape[1:]))
    with _archive(path) as archive, archive.open(f"{stored.name}.npy") as member:
        _header(member, stored.name, path)
        for start in range(0, total, size):
            rows = min(size, total - start)
            content = member.read(rows * row_bytes)
            if len(content) < rows * row_bytes:
                raise CalibrationError(
                    f"{stored.name} of {path} ends within row {start + len(content) // row_bytes}: "
                    f"expected {total} rows; the file is truncated"
                )
            chunk = np.frombuffer(content, stored.dtype).reshape(rows, *stored.shape[1:])
            yield chunk.astype(stored.dtype.newbyteorder("="), copy=False)
