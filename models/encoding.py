"""What an encoder gives: raw rows as the model's input tensors, grouped by shape."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    from models.preprocessing import TensorSpec

MASK = "attention_mask"
"""The input that says which tokens count."""

BLANK_SIZE = 32  # where a size varies, as with tokens

RawRows = Sequence[str] | Sequence[bytes] | np.ndarray
"""Texts, encoded images, or numbers (n, ...)."""


@dataclass(frozen=True)
class Group:
    """Rows whose tensors have equal shapes: they can share a batch.

    rows : int (b,), their places among the raw rows
    tensors : one array (b, ...) per model input, in the order of the inputs
    """

    rows: np.ndarray
    tensors: tuple[np.ndarray, ...]


@dataclass(frozen=True)
class Encoded:
    """Every raw row is in exactly one group, or bad.

    groups : by shape
    bad : place of a row that cannot be encoded -> what was found and what was expected
    """

    groups: list[Group]
    bad: dict[int, str]


def blank_rows(inputs: Sequence[TensorSpec], rows: int = 1) -> tuple[np.ndarray, ...]:
    """Inputs that any model takes, (rows, ...) each: to warm it up, and to see that it runs."""
    blank = []
    for spec in inputs:
        shape = [BLANK_SIZE if size is None else size for size in spec.row_shape]
        value = 1 if spec.name == MASK else 0  # attention to nothing is not a number
        blank.append(np.full((rows, *shape), value, spec.dtype))
    return tuple(blank)


class Encoder(Protocol):
    """Turns raw rows into input tensors; the same code offline and online."""

    def encode(self, rows: RawRows) -> Encoded:
        """Encode all rows that can be encoded."""
        ...
