"""The files of the feature cache: filled by chunks, whole up to a known row at every moment."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from calibration.feature_columns import Column


class FeatureStore:
    """The files of one pass, and how far they are filled.

    Parameters
    ----------
    folder : of this pass alone; made where it is missing
    rows : n
    columns : what is kept of every row

    Attributes
    ----------
    columns : one array (n, width) per column, mapped into memory
    hashes : uint64 (n,), of the raw rows
    good : bool (n,), false where a row could not be encoded
    bad : row -> why it could not be encoded
    rows_done : rows up to which everything is on disk
    """

    def __init__(self, folder: Path, rows: int, columns: Sequence[Column]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._progress = folder / "progress.json"
        self.bad: dict[int, str] = {}
        self.rows_done = self._read_progress()
        mode: str = "r+" if self.rows_done else "w+"

        def array(name: str, dtype: str, *shape: int) -> np.ndarray:
            path = folder / f"{name}.npy"
            if mode == "r+":
                kept: np.ndarray = np.load(path, mmap_mode="r+", allow_pickle=False)
                return kept
            fresh: np.ndarray = np.lib.format.open_memmap(path, mode, dtype, shape)
            return fresh

        self.columns = [
            array(f"column{number}", column.dtype, rows, column.width)
            for number, column in enumerate(columns, start=1)
        ]
        self.hashes = array("hashes", "uint64", rows)
        self.good = array("good", "bool", rows)
        if mode == "w+":
            self.good[:] = True

    def save(self, rows_done: int) -> None:
        """Everything up to `rows_done` is on disk when this returns."""
        for array in [*self.columns, self.hashes, self.good]:
            if isinstance(array, np.memmap):
                array.flush()
        self.rows_done = rows_done
        fresh = self._progress.with_suffix(".new")
        bad = {str(row): reason for row, reason in self.bad.items()}
        fresh.write_text(json.dumps({"rows_done": rows_done, "bad": bad}))
        fresh.replace(self._progress)

    def _read_progress(self) -> int:
        try:
            progress = json.loads(self._progress.read_text())
        except FileNotFoundError:
            return 0
        self.bad = {int(row): reason for row, reason in progress["bad"].items()}
        return int(progress["rows_done"])
