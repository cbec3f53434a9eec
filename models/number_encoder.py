"""The encoder of numbers: checked, standardised and cast to the model's one input."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from models.encoding import Encoded, Group, RawRows
from models.errors import BundleError, InvalidInput
from models.preprocessing import NumberPreprocessing, TensorSpec


class NumberEncoder:
    """Turns arrays of numbers into the one input tensor; the good rows form one group.

    Parameters
    ----------
    preprocessing : mean and scale per column, or neither
    inputs : the model's one input

    Raises
    ------
    BundleError
        When the model has several inputs, or mean and scale do not fit its one.

    Example: with mean (1, 2) and scale (2, 2) the row [3, 2] becomes [1, 0].
    """

    def __init__(self, preprocessing: NumberPreprocessing, inputs: Sequence[TensorSpec]) -> None:
        if len(inputs) != 1:
            raise BundleError(
                f"the model has {len(inputs)} inputs ({', '.join(spec.name for spec in inputs)}), "
                "but rows of numbers fill exactly one: export the model with one input"
            )
        self._dtype = np.dtype(inputs[0].dtype)
        self._row_shape = _row_shape(preprocessing, inputs[0])
        self._standardised = bool(preprocessing.mean or preprocessing.scale)
        self._mean = np.array(preprocessing.mean or 0.0, np.float64)
        self._scale = np.array(preprocessing.scale or 1.0, np.float64)

    def encode(self, rows: RawRows) -> Encoded:
        """Encode numbers (n, *row_shape); the tensor may share memory with them.

        Raises
        ------
        InvalidInput
            When `rows` is a single number without a dimension for rows.
        """
        if isinstance(rows, np.ndarray) and rows.ndim == 0:
            raise InvalidInput(f"found one number without rows; expected {self._expected_array}")
        if not isinstance(rows, np.ndarray) or rows.dtype.kind not in "biuf":
            found = rows.dtype if isinstance(rows, np.ndarray) else "texts or files"
            return _all_bad(rows, f"found {found}; expected numbers, {self._expected_array}")
        if not self._fits(rows.shape[1:]):
            found = f"a row of shape {rows.shape[1:]}"
            return _all_bad(rows, f"found {found}; expected {self._expected_array}")
        values, fine = self._cast(rows)
        good = fine.all(axis=tuple(range(1, rows.ndim)))
        bad = {int(row): self._fault(rows[row], fine[row]) for row in np.flatnonzero(~good)}
        places = np.flatnonzero(good)
        if bad:
            values = values[places]
        return Encoded([Group(places, (values,))] if len(places) else [], bad)

    @property
    def _expected_array(self) -> str:
        sizes = ["n", *("any" if size is None else str(size) for size in self._row_shape)]
        return f"an array of shape ({', '.join(sizes)})"

    def _fits(self, row_shape: tuple[int, ...]) -> bool:
        return len(row_shape) == len(self._row_shape) and all(
            found == expected or (expected is None and found > 0)
            for found, expected in zip(row_shape, self._row_shape, strict=True)
        )

    def _cast(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The model's input and whether each number is fine: (n, ...) -> (n, ...), bool (n, ...)"""
        with np.errstate(over="ignore", invalid="ignore"):
            values = rows
            if self._standardised:
                values = (rows.astype(np.float64) - self._mean) / self._scale
            cast = np.ascontiguousarray(values.astype(self._dtype, copy=False))
        return cast, np.isfinite(cast) if self._dtype.kind == "f" else self._is_whole(rows)

    def _is_whole(self, rows: np.ndarray) -> np.ndarray:
        """Whether each number is whole and in the input's range: (n, ...) -> bool (n, ...)"""
        lowest, highest = 0, 1
        if self._dtype.kind != "b":
            lowest, highest = np.iinfo(self._dtype).min, np.iinfo(self._dtype).max
        if rows.dtype.kind != "f":
            return np.asarray((rows >= lowest) & (rows <= highest))
        wide = rows.astype(np.float64)
        # highest + 1 is a power of two, which a float holds exactly; highest may be none
        return np.asarray((wide >= lowest) & (wide < highest + 1) & (wide == np.floor(wide)))

    def _fault(self, row: np.ndarray, fine: np.ndarray) -> str:
        """What is wrong with a row, by its first number that is not fine."""
        place = np.unravel_index(np.flatnonzero(~fine.ravel())[0], row.shape)
        position = f" at position {[int(index) for index in place]}" if place else ""
        expected = f"whole numbers that {self._dtype} can hold"
        if self._dtype.kind == "f":
            expected = f"finite numbers that {self._dtype} can hold"
            if self._standardised:
                expected += " after (x - mean) / scale"
        return f"found {row[place]}{position}; expected {expected}: fill it in or leave the row out"


def _row_shape(preprocessing: NumberPreprocessing, spec: TensorSpec) -> tuple[int | None, ...]:
    """The shape of a row; mean and scale say how many columns there are where the input does not.

    Raises BundleError when they do not fit.
    """
    lengths = {len(values) for values in (preprocessing.mean, preprocessing.scale) if values}
    if not lengths:
        return spec.row_shape
    if len(lengths) > 1:
        raise BundleError(
            f"preprocessing has {len(preprocessing.mean)} means but {len(preprocessing.scale)} "
            "scales: expected one of each per column"
        )
    columns = lengths.pop()
    if spec.row_shape not in {(columns,), (None,)}:
        raise BundleError(
            f"preprocessing standardises {columns} columns, but a row of input {spec.name!r} has "
            f"shape {spec.row_shape}: expected ({columns},)"
        )
    if not spec.dtype.startswith("float"):
        raise BundleError(
            f"preprocessing standardises, but input {spec.name!r} takes {spec.dtype}: expected a "
            "float input, or no mean and scale"
        )
    return (columns,)


def _all_bad(rows: RawRows, fault: str) -> Encoded:
    return Encoded([], dict.fromkeys(range(len(rows)), fault))
