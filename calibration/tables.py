"""Rows from a table: texts, images or numbers in its columns, with their labels."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from calibration.cells import flag_cells, image_cell, number_cells, stamp_cell, text_cell
from calibration.checks import check_names
from calibration.columns import Columns, choose_columns, has_header
from calibration.dataset import TO_BE_DRAWN, Dataset
from calibration.label_sets import LabelSets, read_label_names
from calibration.parts import Part, chunks, file_digest, numbered
from calibration.splits import split_number
from calibration.table_files import Table, open_delimited, open_json_lines, open_parquet
from models.encoding import RawRows
from models.errors import CalibrationError

if TYPE_CHECKING:
    from calibration.readers import DataOptions

Load = Callable[[Sequence[Any], str], Any]
"""The content cells of a row and its place -> the raw row."""

Stamp = Callable[[Sequence[Any], str], bytes]
"""The same -> what is known, without reading it, of content outside the table; checks the cells."""


def read_table(path: Path, options: DataOptions) -> Part:
    """Open the rows of a `.csv`, `.tsv`, `.jsonl` or `.parquet` file.

    Which columns are read is said in `calibration.columns.choose_columns`. The labels are one
    column of label sets (names or ids, with separators or as lists), or one 0/1 column per label.
    A first pass checks every row and keeps its labels; `read` parses the file again.

    Raises
    ------
    CalibrationError
        At the line of any row that cannot be used.
    """
    table = _open_table(path, options)
    columns = choose_columns(table, options)
    load = _loader(columns, path.parent)
    known = _known_names(columns, options)
    scan = _Scan(columns, LabelSets(known, options.label_separator))
    scan.run(table, _stamper(columns, path.parent, load))
    names, labels = scan.sets.matrix()

    def read(size: int) -> Iterator[RawRows]:
        rows = table.rows(columns.content)
        loaded = (load(cells, table.place(number)) for number, cells in rows)
        for chunk in chunks(loaded, size):
            yield np.stack(chunk) if columns.kind == "numbers" else chunk

    data = Dataset(
        kind=columns.kind,
        labels=labels,
        names=names,
        read=read,
        digest=file_digest(
            path, columns.kind, columns.content, table.header, scan.stamps.hexdigest()
        ),
        split=np.array(scan.splits, np.int8),
        place=numbered(path, scan.numbers, table.unit),
    )
    features = columns.content if columns.kind == "numbers" else ()
    return Part(path, data, features, open_names=known is None)


class _Scan:
    """What the first pass keeps of the rows.

    numbers : line (or row) number of each row
    splits : each row's split
    stamps : hash of what is known of the images
    """

    def __init__(self, columns: Columns, sets: LabelSets) -> None:
        self.sets = sets
        self.numbers = array("I")
        self.splits = array("b")
        self.stamps = hashlib.sha256()
        self._columns = columns
        self._labels_at = len(columns.content)
        self._labels_end = self._labels_at + len(columns.labels)

    def run(self, table: Table, stamp: Stamp) -> None:
        for number, cells in table.rows(self._columns.names):
            self._add(number, cells, stamp, table.place(number))

    def _add(self, number: int, cells: Sequence[Any], stamp: Stamp, place: str) -> None:
        labels = cells[self._labels_at : self._labels_end]
        self.stamps.update(stamp(cells[: self._labels_at], place))
        if len(labels) == 1:
            self.sets.add(labels[0], place)
        else:
            self.sets.add_ids(flag_cells(labels, self._columns.labels, place))
        has_split = self._columns.split is not None
        self.splits.append(split_number(cells[-1], place) if has_split else TO_BE_DRAWN)
        self.numbers.append(number)


def _open_table(path: Path, options: DataOptions) -> Table:
    ending = path.suffix.casefold()
    if ending == ".jsonl":
        return open_json_lines(path)
    if ending == ".parquet":
        return open_parquet(path)
    return open_delimited(path, lambda fields: has_header(fields, options))


def _known_names(columns: Columns, options: DataOptions) -> tuple[str, ...] | None:
    """Label names where they are known before the rows are read."""
    names = read_label_names(options.label_names) if options.label_names else None
    if len(columns.labels) == 1:
        return names
    check_names(columns.labels, "the list of label columns")
    if names and len(names) != len(columns.labels):
        raise CalibrationError(
            f"{options.label_names} has {len(names)} label names for {len(columns.labels)} label "
            "columns: expected one name per column, in the order of the columns"
        )
    return names or columns.labels


def _loader(columns: Columns, folder: Path) -> Load:
    if columns.kind == "text":
        return lambda cells, place: text_cell(cells[0], place)
    if columns.kind == "image":
        return lambda cells, place: image_cell(cells[0], folder, place)
    return lambda cells, place: number_cells(cells, columns.content, place)


def _stamper(columns: Columns, folder: Path, load: Load) -> Stamp:
    def stamp(cells: Sequence[Any], place: str) -> bytes:
        if columns.kind == "image":
            return stamp_cell(cells[0], folder, place)
        load(cells, place)
        return b""

    return stamp
