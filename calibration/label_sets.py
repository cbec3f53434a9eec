"""Label sets collected row by row: names or ids become the columns of one bool matrix."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from calibration.checks import check_names, listed
from models.errors import CalibrationError

SEPARATOR = ","
DOUBTFUL = ("|", ";", "[", "]")
"""Signs in a cell of labels that are more often a separator or a list than a part of a name."""

ROWS_AT_ONCE = 65_536


class LabelSets:
    """The label sets of rows, added one after the other.

    Memory grows by the labels that rows have, not by their number times all labels, until
    `matrix` is asked for.

    Parameters
    ----------
    names : the label names where they are known; ids are positions in them. None: every name that
        occurs is a label, whole numbers too
    separator : between the labels of one cell. None: a comma, and signs of another one are refused
    """

    def __init__(self, names: Sequence[str] | None = None, separator: str | None = None) -> None:
        self._known = names is not None
        self._separator = separator
        self._ids = {name: number for number, name in enumerate(names or ())}
        self._members = array("I")
        self._sizes = array("I")

    def add(self, cell: object, place: str) -> None:
        """Add the label set of one row.

        Parameters
        ----------
        cell : labels in one text with separators, one label, or a list of labels
        place : the row, for messages, e.g. `comments.tsv, line 3`
        """
        self.add_ids(sorted({self._id(label, place) for label in self._split(cell, place)}))

    def add_ids(self, ids: Iterable[int]) -> None:
        """Add the label set of one row by the labels' positions."""
        before = len(self._members)
        self._members.extend(ids)
        self._sizes.append(len(self._members) - before)

    def matrix(self) -> tuple[tuple[str, ...], np.ndarray]:
        """Names (L,) and label sets bool (n, L); names that were not known come sorted."""
        names = tuple(self._ids) if self._known else sorted_names(self._ids)
        columns = {name: column for column, name in enumerate(names)}
        order = np.array([columns[name] for name in self._ids], np.int64)
        members = np.asarray(self._members, np.uint32)
        sizes = np.asarray(self._sizes, np.uint32)
        labels = np.zeros((len(sizes), len(names)), bool)
        done = 0
        for start in range(0, len(sizes), ROWS_AT_ONCE):
            counts = sizes[start : start + ROWS_AT_ONCE]
            rows = start + np.repeat(np.arange(len(counts)), counts)
            labels[rows, order[members[done : done + len(rows)]]] = True
            done += len(rows)
        return names, labels

    def _split(self, cell: object, place: str) -> Iterable[object]:
        if isinstance(cell, str):
            if self._separator is None and not self._known:
                _check_separator(cell, place)
            parts = (part.strip() for part in cell.split(self._separator or SEPARATOR))
            return [part for part in parts if part]
        if isinstance(cell, list | tuple):
            return cell
        if cell is None:
            raise CalibrationError(
                f"{place} has null as its labels: expected a list of labels; write [] for a row "
                "without any, and leave out rows whose labels are not known"
            )
        return (cell,)

    def _id(self, label: object, place: str) -> int:
        if isinstance(label, bool) or not isinstance(label, int | str):
            raise CalibrationError(
                f"{place} has the label {label!r}: expected a name or a whole number"
            )
        name = str(label)
        if not self._known:
            return self._ids.setdefault(name, len(self._ids))
        if not name.removeprefix("-").isdecimal():
            return self._position(name, place)
        if not 0 <= int(name) < len(self._ids):
            raise CalibrationError(
                f"{place} has the label id {name}: expected 0 to {len(self._ids) - 1}, since there "
                f"are {len(self._ids)} label names"
            )
        return int(name)

    def _position(self, name: str, place: str) -> int:
        if name not in self._ids:
            raise CalibrationError(
                f"{place} has the label {name!r}, which is none of the label names given: "
                f"{listed(self._ids)}; add it to them, or choose the separator with "
                "--label-separator"
            )
        return self._ids[name]


def sorted_names(names: Iterable[str]) -> tuple[str, ...]:
    """Label names in one order wherever they come from: whole numbers by value, then the others."""
    return tuple(
        sorted(names, key=lambda name: (not name.isdecimal(), _number(name), name)),
    )


def read_label_names(path: Path) -> tuple[str, ...]:
    """Label names from a text file, one per line; the first has id 0."""
    try:
        lines = path.read_text("utf-8-sig").rstrip().split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise CalibrationError(
            f"the label names cannot be read from {path} ({error}): expected a text file with one "
            "label name per line"
        ) from error
    names = tuple(line.strip() for line in lines) if lines != [""] else ()
    check_names(names, str(path))
    return names


def _number(name: str) -> int:
    return int(name) if name.isdecimal() else 0


def _check_separator(cell: str, place: str) -> None:
    doubtful = [sign for sign in DOUBTFUL if sign in cell]
    if doubtful:
        raise CalibrationError(
            f"{place} has the labels {cell!r}, and {listed(doubtful)} may separate labels or be "
            f"part of a name: say which with --label-separator ({SEPARATOR!r} where it is part of "
            "a name); lists belong into .jsonl or .parquet"
        )
