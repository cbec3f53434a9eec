"""The data of a calibration, whatever files it comes in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from calibration.arff import read_arff
from calibration.checks import check_dataset, check_rows
from calibration.dataset import SPLITS, TO_BE_DRAWN, Dataset
from calibration.image_folder import read_image_folder
from calibration.npz import read_npz
from calibration.parts import Part, join, reading
from calibration.tables import read_table
from models.errors import CalibrationError


@dataclass(frozen=True)
class DataOptions:
    """Where the rows are, and how they are read.

    path : file or folder of the rows; with files for other splits, of the remaining ones
    tune, certify, test : file or folder of that split
    text_column, image_column : name of the column of raw rows, or its number where there is no
        header; None: looked for
    label_columns : one column of label sets, or one 0/1 column per label; empty: looked for
    label_separator : between the labels of one cell; None: a comma
    label_names : text file with one label name per line; whole numbers in the label column are
        then positions in it
    ignored_columns : columns that are no features, where rows are numbers
    split_column : column with each row's split: fit, tune, certify or test, or a usual alias
    header : whether the first line names the columns; None: detected
    drop_absent_labels : leave out labels that no row has, instead of refusing them
    """

    path: Path
    tune: Path | None = None
    certify: Path | None = None
    test: Path | None = None
    text_column: str | None = None
    image_column: str | None = None
    label_columns: tuple[str, ...] = ()
    label_separator: str | None = None
    label_names: Path | None = None
    ignored_columns: tuple[str, ...] = ()
    split_column: str | None = None
    header: bool | None = None
    drop_absent_labels: bool = False

    def __post_init__(self) -> None:
        if self.text_column is not None and self.image_column is not None:
            raise CalibrationError(
                f"the rows are said to be texts (column {self.text_column!r}) and images (column "
                f"{self.image_column!r}): expected --text-column or --image-column, not both"
            )
        if self.label_separator == "":
            raise CalibrationError(
                "the label separator is empty: expected a text such as ',' or '|'"
            )

    def named_columns(self) -> tuple[str, ...]:
        """All columns that must be there."""
        single = (self.text_column, self.image_column, self.split_column)
        return (*(name for name in single if name is not None), *self.label_columns)

    def refuse_columns(self, path: Path) -> None:
        """Refuse names of columns for data that has none."""
        if named := self.named_columns():
            raise CalibrationError(
                f"the columns {', '.join(map(repr, named))} are named, but {path} is not a table: "
                "columns are for .csv, .tsv, .jsonl and .parquet; give splits by files of their own"
            )


Reader = Callable[[Path, DataOptions], Part]

READERS: dict[str, Reader] = {
    ".arff": read_arff,
    ".csv": read_table,
    ".jsonl": read_table,
    ".npz": read_npz,
    ".parquet": read_table,
    ".tsv": read_table,
}


def open_dataset(options: DataOptions) -> Dataset:
    """Open the rows of all files, checked as far as one pass over them can.

    Rows of a file for a split have that split; the others TO_BE_DRAWN, or what the split column
    says. Where the split column leaves a split without rows, the rows of `fit` are to be drawn.

    Raises
    ------
    CalibrationError
        Names the file and the row, what was found, what was expected and the way on.
    """
    files = {name: getattr(options, name) for name in SPLITS[1:]}
    given = {name: path for name, path in files.items() if path is not None}
    _check_distinct([options.path, *given.values()])
    parts = [open_part(options.path, options)]
    for name, path in given.items():
        part = open_part(path, _without_split(options))
        split = np.full(len(part.data), SPLITS.index(name), np.int8)
        parts.append(replace(part, data=replace(part.data, split=split)))
    data = join(parts)
    where = ", ".join(str(part.path) for part in parts)
    if options.split_column is not None:
        data = replace(data, split=_complete(data.split, options))
    return check_dataset(data, options.drop_absent_labels, where)


def open_part(path: Path, options: DataOptions) -> Part:
    """Open one file or folder, which need not hold more than one split."""
    with reading(path):
        part = _reader(path)(path, options)
    check_rows(part.data, str(path))
    return part


def _without_split(options: DataOptions) -> DataOptions:
    """Options for a file that is one split: a split column may be there, and is not read."""
    if options.split_column is None:
        return options
    ignored = (*options.ignored_columns, options.split_column)
    return replace(options, split_column=None, ignored_columns=ignored)


def _reader(path: Path) -> Reader:
    if path.is_dir():
        return read_image_folder
    reader = READERS.get(path.suffix.casefold())
    if reader is None:
        raise CalibrationError(
            f"{path} cannot be read as data: expected a folder of images, or a file that ends in "
            f"{', '.join(READERS)}"
        )
    return reader


def _check_distinct(paths: list[Path]) -> None:
    resolved = [path.resolve() for path in paths]
    for path, place in zip(paths, resolved, strict=True):
        if resolved.count(place) > 1:
            raise CalibrationError(
                f"{path} is given for more than one split: splits must not overlap, give each its "
                "own file, or one file for all that is drawn from"
            )


def _complete(split: np.ndarray, options: DataOptions) -> np.ndarray:
    """Splits (n,) from a split column; those of `fit` to be drawn where a split has no rows."""
    missing = [name for number, name in enumerate(SPLITS) if not np.any(split == number)]
    if "fit" in missing:
        raise CalibrationError(
            f"the column {options.split_column!r} of {options.path} puts no row into fit (or "
            "train): expected rows to train heads on"
        )
    drawn = split.copy()
    if missing:
        drawn[split == SPLITS.index("fit")] = TO_BE_DRAWN
    return drawn
