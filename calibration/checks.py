"""What must hold for labelled rows of any format before they are used."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import numpy as np

from calibration.dataset import Dataset
from models.errors import CalibrationError

SHOWN = 10


def listed(names: Iterable[object]) -> str:
    """Names for a message: quoted, and only the first ones where there are many."""
    quoted = [repr(name) for name in names]
    more = f" and {len(quoted) - SHOWN} more" if len(quoted) > SHOWN else ""
    return ", ".join(quoted[:SHOWN]) + more


def repeated(names: Iterable[str]) -> list[str]:
    """The names that occur more than once."""
    return [name for name, count in Counter(names).items() if count > 1]


def check_names(names: Sequence[str], where: str) -> None:
    """Refuse label names that are missing, empty or repeated.

    Parameters
    ----------
    names : L label names
    where : what they were read from, e.g. `labels.txt`
    """
    if not names:
        raise CalibrationError(
            f"{where} has no labels: a multi-label classifier needs at least one; name the label "
            "columns with --labels, or check that the file is the one meant"
        )
    if twice := repeated(names):
        raise CalibrationError(
            f"{where} has label names that repeat: {listed(twice)}; every label needs a name of "
            "its own, rename them"
        )
    if not all(names):
        raise CalibrationError(
            f"{where} has an empty name for label number {list(names).index('')}: every label "
            "needs a name, and its place is its id"
        )


def as_flags(
    values: np.ndarray, names: Sequence[str], place: Callable[[int], str], start: int = 0
) -> np.ndarray:
    """0/1 values (b, L) of any numeric type as bool (b, L).

    Parameters
    ----------
    values : numbers
    names : L label names
    place : row -> how it is called in the message
    start : row that the first of `values` is
    """
    flags: np.ndarray = values == 1
    wrong = np.argwhere(~flags & (values != 0))
    if len(wrong):
        row, label = wrong[0]
        raise CalibrationError(
            f"{place(start + int(row))} has {values[row, label]!s} for the label {names[label]!r}: "
            "expected 0 or 1 for every label of every row"
        )
    return flags


def check_lengths(rows: int, label_rows: int, where: str) -> None:
    """Refuse rows and label sets that do not belong together."""
    if rows != label_rows:
        raise CalibrationError(
            f"{where} has {rows} rows but label sets for {label_rows}: expected one label set "
            "per row"
        )


def check_rows(data: Dataset, where: str) -> None:
    """Refuse data without rows."""
    if not len(data):
        raise CalibrationError(
            f"{where} has no rows: expected at least one sample; check that the file is the one "
            "meant"
        )


def check_dataset(data: Dataset, drop_absent: bool, where: str) -> Dataset:
    """Refuse data without usable labels; a row without any label is fine.

    Parameters
    ----------
    data : all rows of all files
    drop_absent : leave out labels that no row has, instead of refusing them
    where : what the data was read from

    Returns
    -------
    The same rows, with the labels that are kept.
    """
    check_names(data.names, where)
    present = np.asarray(data.labels.any(axis=0))  # (L,)
    if present.all():
        return data
    absent = [name for name, found in zip(data.names, present, strict=True) if not found]
    if not present.any():
        raise CalibrationError(
            f"no row of {where} has any of the labels {listed(absent)}: there is nothing to learn "
            "or to measure; check the label columns"
        )
    if not drop_absent:
        raise CalibrationError(
            f"{len(absent)} of {len(data.names)} labels never occur in {where}: {listed(absent)}; "
            "nothing can be measured for them. Leave them out with --drop-absent-labels, or add "
            "rows that have them"
        )
    kept = tuple(name for name, found in zip(data.names, present, strict=True) if found)
    return replace(data, labels=data.labels[:, present], names=kept)
