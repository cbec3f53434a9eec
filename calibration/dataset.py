"""Labelled rows, and the four splits that calibration keeps apart."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, fields

import numpy as np


@dataclass(frozen=True)
class Dataset:
    """Rows with their true label sets.

    inputs : float32 (n, ...), the model's own input
    labels : bool (n, L), the multi-hot label sets
    names : the L label names
    """

    inputs: np.ndarray
    labels: np.ndarray
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.inputs)

    def digest(self) -> str:
        """sha256 over inputs and labels: the name under which a split is recorded."""
        digest = hashlib.sha256()
        for array in (self.inputs, self.labels):
            digest.update(f"{array.dtype.str}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()


@dataclass(frozen=True)
class Splits:
    """The four splits (see DESIGN: fit / tune / certify / test). They share no row.

    fit : trains the network and its heads
    tune : probability calibration, label thresholds, W-distances, the policy path
    certify : touched once, by the certificate
    test : reported
    """

    fit: Dataset
    tune: Dataset
    certify: Dataset
    test: Dataset

    def digests(self) -> dict[str, str]:
        """sha256 of each split, by its name."""
        return {field.name: getattr(self, field.name).digest() for field in fields(self)}
