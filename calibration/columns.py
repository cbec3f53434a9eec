"""Columns of a table: which hold the raw rows, which the labels, which the split."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from calibration.checks import listed, repeated
from calibration.dataset import RowKind
from models.errors import CalibrationError

if TYPE_CHECKING:
    from calibration.readers import DataOptions
    from calibration.table_files import Table

# names that are looked for, capitals or not, where options name no column
TEXT = ("text", "comment", "sentence", "content", "title")
IMAGE = ("image", "path", "file", "filename", "image_path")
SPLIT = "split"  # rows that somebody parted are not to be drawn anew without a word
LABELS = ("labels", "label", "tags")
NEVER_FEATURES = ("id",)


@dataclass(frozen=True)
class Columns:
    """What is read from a table.

    kind : what a raw row is
    content : the columns of the raw row: one of texts or of images, or the features
    labels : one column of label sets, or one 0/1 column per label
    split : the column that says which split a row is in
    """

    kind: RowKind
    content: tuple[str, ...]
    labels: tuple[str, ...]
    split: str | None

    @property
    def names(self) -> tuple[str, ...]:
        """All columns that are read: content, labels, then the split."""
        return (*self.content, *self.labels, *((self.split,) if self.split else ()))


def has_header(fields: Sequence[str], options: DataOptions) -> bool:
    """Whether the first line of a file names its columns.

    It does where options say so; else where a field is a name that is looked for, or where options
    name a column by something else than its number.
    """
    if options.header is not None:
        return options.header
    known = bool(_known(fields, TEXT + IMAGE + LABELS))
    named = (*options.named_columns(), *options.ignored_columns)
    return known or not all(name.isdecimal() for name in named)


def choose_columns(table: Table, options: DataOptions) -> Columns:
    """Choose the columns to read: those that options name, else those of usual names.

    With a header, texts are looked for in a column of a name in TEXT, images of a name in IMAGE,
    labels of a name in LABELS; where there are neither texts nor images, all other columns are
    features and must hold numbers (a column named `id` and those ignored are left out). Without a
    header, column 0 is text and column 1 its labels; where options name the label columns and the
    first of the other columns begins with a number, the other columns are features.

    Raises
    ------
    CalibrationError
        When a column is missing, or when more than one could be meant; lists the columns found.
    """
    missing = [name for name in options.named_columns() if name not in table.columns]
    if missing:
        raise _error(table, f"no column {listed(missing)}", "name columns that it has")
    labels = options.label_columns or _label_columns(table)
    taken = {*labels, options.split_column, *options.ignored_columns}
    free = tuple(name for name in table.columns if name not in taken)
    kind, content = _content(table, options, free)
    columns = Columns(kind, content, labels, options.split_column)
    unused = set(free).difference(content)
    if options.split_column is None and SPLIT in unused:
        raise _error(
            table,
            f"a column {SPLIT!r} that nothing uses",
            "follow it with --split-column split, or leave it out with --ignore split",
        )
    if twice := repeated(columns.names):
        raise _error(table, f"several uses for the column {listed(twice)}", "name one for each use")
    return columns


def _label_columns(table: Table) -> tuple[str, ...]:
    found = _known(table.columns, LABELS) if table.header else list(table.columns[1:2])
    if not found:
        raise _error(table, "no column that is known to hold labels", "name it with --labels")
    if len(found) > 1:
        raise _error(table, f"several columns for labels: {listed(found)}", "choose with --labels")
    return (found[0],)


def _content(
    table: Table, options: DataOptions, free: tuple[str, ...]
) -> tuple[RowKind, tuple[str, ...]]:
    if options.text_column is not None:
        return "text", (options.text_column,)
    if options.image_column is not None:
        return "image", (options.image_column,)
    if not table.header:
        if options.label_columns and _is_number(_first_cells(table, free[:1])):
            return "numbers", free
        return "text", table.columns[:1]
    texts, images = _known(free, TEXT), _known(free, IMAGE)
    if len(texts) + len(images) > 1:
        raise _error(
            table,
            f"several columns for texts or images: {listed(texts + images)}",
            "choose with --text-column or --image-column",
        )
    if texts:
        return "text", (texts[0],)
    if images:
        return "image", (images[0],)
    return "numbers", _features(table, free)


def _features(table: Table, free: tuple[str, ...]) -> tuple[str, ...]:
    names = tuple(name for name in free if name.casefold() not in NEVER_FEATURES)
    first = _first_cells(table, names)
    others = [name for name, cell in zip(names, first, strict=True) if not _is_number([cell])]
    if others or not names:
        raise _error(
            table,
            "no column that is known to hold texts or images, and "
            + (f"no numbers in {listed(others)}" if others else "none that could hold features"),
            "name the column with --text-column or --image-column; where rows are numbers, name "
            "all label columns with --labels and leave out others with --ignore",
        )
    return names


def _first_cells(table: Table, names: Sequence[str]) -> Sequence[Any]:
    """The first row's cells; a table without rows is refused later, by what all data must have."""
    _, cells = next(table.rows(names), (0, ["0"] * len(names)))
    return cells


def _is_number(cells: Sequence[Any]) -> bool:
    try:
        return bool([float(cell) for cell in cells if cell is not None] or cells)
    except (TypeError, ValueError):
        return False


def _known(names: Iterable[str], known: Sequence[str]) -> list[str]:
    return [name for name in names if name.strip().casefold() in known]


def _error(table: Table, found: str, way_on: str) -> CalibrationError:
    if table.header:
        return CalibrationError(
            f"{table.path} has {found}; its columns are {listed(table.columns)}: {way_on}"
        )
    return CalibrationError(
        f"{table.path} has {found}; without a header its columns are {listed(table.columns)}: "
        f"{way_on}, by number, or say --header if the first line holds the columns' names"
    )
