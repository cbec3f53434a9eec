"""A table as a file holds it: CSV, TSV, JSON lines or Parquet, as a stream of rows of cells."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from calibration.checks import listed, repeated
from models.errors import CalibrationError

PARQUET_ROWS_AT_ONCE = 256  # cells may be whole images

Row = tuple[int, Sequence[Any]]
"""The number of the line (or row) in the file, and its cells."""


@dataclass(frozen=True)
class Table:
    """A table on disk; its rows are read anew whenever they are asked for.

    path : the file
    columns : column names; "0", "1", ... where the file has no header
    header : whether the file names its columns
    rows : names of columns -> rows of the cells in these columns, in this order
    unit : what rows are counted in, `line` or `row`
    """

    path: Path
    columns: tuple[str, ...]
    header: bool
    rows: Callable[[Sequence[str]], Iterator[Row]]
    unit: str = "line"

    def place(self, number: int) -> str:
        """How a row is called, e.g. `comments.tsv, line 3`."""
        return f"{self.path.name}, {self.unit} {number}"


def open_delimited(path: Path, has_header: Callable[[Sequence[str]], bool]) -> Table:
    """Open a `.csv` or `.tsv` file in UTF-8.

    A `.csv` file quotes fields as RFC 4180 says. A `.tsv` file never quotes: a double quote is a
    character like any other.

    Parameters
    ----------
    has_header : fields of the first line -> whether they are names of columns
    """
    split = _tsv_records if path.suffix.casefold() == ".tsv" else _csv_records
    _, first = next(split(path), (0, ()))
    header = bool(first) and has_header(first)
    columns = tuple(field.strip() for field in first) if header else _numbers(first)
    _check_columns(path, columns)

    def rows(names: Sequence[str]) -> Iterator[Row]:
        places = [columns.index(name) for name in names]
        records = split(path)
        if header:
            next(records)
        for number, fields in records:
            if len(fields) != len(columns):
                raise CalibrationError(
                    f"{path.name}, line {number} has {len(fields)} fields: expected "
                    f"{len(columns)} as in the first line; fields that hold the delimiter are "
                    "quoted in a .csv file, and impossible in a .tsv file"
                )
            yield number, [fields[place] for place in places]

    return Table(path, columns, header, rows)


def open_json_lines(path: Path) -> Table:
    """Open a `.jsonl` file: one object per line; the first one's keys are the columns."""
    _, first = next(_objects(path), (0, {}))
    _check_columns(path, tuple(first))

    def rows(names: Sequence[str]) -> Iterator[Row]:
        for number, row in _objects(path):
            missing = [name for name in names if name not in row]
            if missing:
                raise CalibrationError(
                    f"{path.name}, line {number} has no {listed(missing)}, only {listed(row)}: "
                    "expected the same keys in every object"
                )
            yield number, [row[name] for name in names]

    return Table(path, tuple(first), True, rows)


def open_parquet(path: Path) -> Table:
    """Open a `.parquet` file."""

    def rows(names: Sequence[str]) -> Iterator[Row]:
        number = 0
        with _parquet_file(path) as file:
            for batch in file.iter_batches(PARQUET_ROWS_AT_ONCE, columns=list(names)):
                cells = [batch.column(name).to_pylist() for name in names]
                for row in zip(*cells, strict=True):
                    yield number, row
                    number += 1

    with _parquet_file(path) as file:
        columns = tuple(file.schema_arrow.names)
    _check_columns(path, columns)
    return Table(path, columns, True, rows, unit="row")


@contextmanager
def _parquet_file(path: Path) -> Iterator[Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with path.open("rb") as content:
        try:
            with pq.ParquetFile(content) as file:
                yield file
        except (pa.ArrowException, OSError) as error:  # OSError: damaged pages
            raise CalibrationError(
                f"{path} is not a Parquet file that can be read ({error}): write it again"
            ) from error


def _open_text(path: Path, newline: str) -> IO[str]:
    return path.open(encoding="utf-8-sig", newline=newline)


def _tsv_records(path: Path) -> Iterator[tuple[int, list[str]]]:
    """By hand: the csv module would end a line at a lone carriage return within a text."""
    with _open_text(path, newline="\n") as file:
        for number, line in enumerate(file, start=1):
            text = line.removesuffix("\n").removesuffix("\r")
            if text:
                yield number, text.split("\t")


def _csv_records(path: Path) -> Iterator[tuple[int, list[str]]]:
    with _open_text(path, newline="") as file:
        reader = csv.reader(file, strict=True)
        start = 1
        try:
            for fields in reader:
                if fields:
                    yield start, fields
                start = reader.line_num + 1
        except csv.Error as error:
            raise CalibrationError(
                f"{path.name} is not CSV from line {start} on ({error}): expected fields "
                "separated by commas, quoted with double quotes; a quote inside is doubled. Save "
                "texts that are hard to quote as .jsonl"
            ) from error


def _objects(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with _open_text(path, newline="\n") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise CalibrationError(
                    f"{path.name}, line {number} is not JSON ({error}): expected one object per "
                    "line"
                ) from error
            if not isinstance(row, dict):
                raise CalibrationError(
                    f"{path.name}, line {number} holds a {type(row).__name__}: expected one "
                    "object per line, {...}"
                )
            yield number, row


def _numbers(fields: Sequence[str]) -> tuple[str, ...]:
    return tuple(str(number) for number in range(len(fields)))


def _check_columns(path: Path, columns: tuple[str, ...]) -> None:
    if not columns:
        raise CalibrationError(f"{path} is empty: expected a table with at least one row")
    if twice := repeated(columns):
        raise CalibrationError(
            f"{path} has columns of the same name: {listed(twice)}; rename them, or say "
            "--no-header if the first line is a row"
        )
