"""Labelled rows, read in chunks, and the four splits that calibration keeps apart."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from models.encoding import RawRows

SPLITS = ("fit", "tune", "certify", "test")
"""fit trains the heads; tune calibrates and proposes; certify is touched once; test is reported."""

TO_BE_DRAWN = -1

RowKind = Literal["numbers", "text", "image"]


@dataclass(frozen=True)
class Dataset:
    """Rows with their true label sets. Memory does not grow with the rows' contents.

    kind : what a raw row is
    labels : bool (n, L), the multi-hot label sets; a row may have none
    names : the L label names
    read : chunk size -> chunks of raw rows (numbers (b, ...), texts, or images as bytes), from the
        first row to the last, the same every time
    digest : sha256 of what the rows were read from; the feature cache is keyed by it
    split : int8 (n,), index into SPLITS, or TO_BE_DRAWN
    place : row -> how a user recognises it, e.g. `comments.tsv, line 3`
    """

    kind: RowKind
    labels: np.ndarray
    names: tuple[str, ...]
    read: Callable[[int], Iterator[RawRows]]
    digest: str
    split: np.ndarray
    place: Callable[[int], str]

    def __len__(self) -> int:
        return len(self.labels)


def from_arrays(
    inputs: np.ndarray,
    labels: np.ndarray,
    names: tuple[str, ...],
    split: np.ndarray | None = None,
    place: Callable[[int], str] = "row {}".format,
) -> Dataset:
    """Rows of numbers that are in memory, (n, ...), with label sets bool (n, L)."""
    digest = hashlib.sha256()
    for array in (inputs, labels):
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)

    def read(size: int) -> Iterator[RawRows]:
        for start in range(0, len(inputs), size):
            yield inputs[start : start + size]

    if split is None:
        split = np.full(len(inputs), TO_BE_DRAWN, np.int8)
    return Dataset("numbers", labels, names, read, digest.hexdigest(), split, place)


def split_rows(dataset: Dataset, name: str) -> np.ndarray:
    """The raw rows of one split of numbers, in memory: (m, ...)."""
    rows = np.concatenate([np.asarray(chunk) for chunk in dataset.read(4096)])
    return np.asarray(rows[dataset.split == SPLITS.index(name)])
