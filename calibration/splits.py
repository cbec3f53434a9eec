"""The four splits: which row belongs to which, and the hashes that record it."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping

import numpy as np

from calibration.checks import listed
from calibration.dataset import SPLITS, TO_BE_DRAWN, Dataset
from models.encoding import RawRows
from models.errors import CalibrationError

SHARES = {"fit": 0.6, "tune": 0.15, "certify": 0.15, "test": 0.1}
MIN_ROWS = {"fit": 100, "tune": 100, "certify": 50, "test": 50}

ALIASES = {
    **{split: split for split in SPLITS},
    "train": "fit",
    "training": "fit",
    "dev": "tune",
    "val": "tune",
    "valid": "tune",
    "validation": "tune",
    "calibration": "certify",
}


def split_number(value: object, place: str) -> int:
    """Index into SPLITS of a split column's value, aliases and capitals allowed."""
    split = ALIASES.get(str(value).strip().casefold())
    if split is None:
        raise CalibrationError(
            f"{place} has the split {value!r}: expected one of {', '.join(ALIASES)}"
        )
    return SPLITS.index(split)


def assign_splits(
    dataset: Dataset, seed: int, shares: Mapping[str, float] | None = None
) -> np.ndarray:
    """Split of every row: those given stay, the others are drawn.

    Rows are drawn among the splits that have no row yet, in the proportion of their shares; where
    every split has rows already, among none but `fit`.

    Parameters
    ----------
    dataset : n rows, some of them perhaps TO_BE_DRAWN
    seed : decides the draw
    shares : of the rows to be drawn, by split; need not sum to 1; by default SHARES

    Returns
    -------
    int8 (n,), indices into SPLITS.
    """
    given = set(np.unique(dataset.split).tolist())
    drawn = [name for number, name in enumerate(SPLITS) if number not in given] or ["fit"]
    rows = np.flatnonzero(dataset.split == TO_BE_DRAWN)
    split = dataset.split.astype(np.int8)
    if len(rows):
        bounds = np.round(np.cumsum(_weights(drawn, shares or SHARES)) * len(rows)).astype(int)
        numbers = np.array([SPLITS.index(name) for name in drawn], np.int8)
        sizes = np.diff(bounds, prepend=0)
        split[np.random.default_rng(seed).permutation(rows)] = np.repeat(numbers, sizes)
    _check_sizes(split, drawn if len(rows) else [])
    return split


def hash_rows(raw: RawRows) -> np.ndarray:
    """Hash of each raw row's bytes (blake2b, 8 bytes): uint64 (b,)."""
    hashes = [
        hashlib.blake2b(_row_bytes(row), digest_size=8).digest()
        for row in raw  # a str, bytes, or an array (...)
    ]
    return np.frombuffer(b"".join(hashes), "<u8").astype(np.uint64)


def split_digests(row_hashes: np.ndarray, labels: np.ndarray, split: np.ndarray) -> dict[str, str]:
    """sha256 per split, over its rows in their order and their label sets.

    Parameters
    ----------
    row_hashes : uint64 (n,), of `hash_rows`
    labels : bool (n, L)
    split : int8 (n,), indices into SPLITS
    """
    digests = {}
    for number, name in enumerate(SPLITS):
        rows = split == number
        digest = hashlib.sha256(f"{np.count_nonzero(rows)} {labels.shape[1]} ".encode())
        digest.update(row_hashes[rows].astype("<u8").tobytes())
        digest.update(np.packbits(labels[rows], axis=1).tobytes())
        digests[name] = digest.hexdigest()
    return digests


def _weights(drawn: list[str], shares: Mapping[str, float]) -> np.ndarray:
    unknown = [name for name in shares if name not in SPLITS]
    if unknown:
        raise CalibrationError(
            f"shares are given for {listed(unknown)}: expected the splits {', '.join(SPLITS)}"
        )
    wrong = {
        name: shares.get(name)
        for name in drawn
        if name not in shares or not (math.isfinite(shares[name]) and shares[name] > 0)
    }
    if wrong:
        found = ", ".join(f"{name}: {share}" for name, share in wrong.items())
        raise CalibrationError(
            f"the shares to draw the splits by are not usable ({found}): expected a number above "
            f"0 for each of {', '.join(drawn)}"
        )
    weights = np.array([shares[name] for name in drawn], float)
    normalised: np.ndarray = weights / weights.sum()
    return normalised


def _check_sizes(split: np.ndarray, drawn: list[str]) -> None:
    sizes = {name: int(np.count_nonzero(split == number)) for number, name in enumerate(SPLITS)}
    short = [name for name in SPLITS if sizes[name] < MIN_ROWS[name]]
    if not short:
        return
    found = ", ".join(
        f"{name} {size} ({'drawn' if name in drawn else 'given'}, needs {MIN_ROWS[name]})"
        for name, size in sizes.items()
    )
    raise CalibrationError(
        f"too few rows in {' and '.join(short)}. Of {len(split)} rows the splits get {found}. "
        "With fewer, heads are not learnt and promises not measured. Give more rows, move rows "
        "from a split that has plenty, or choose other shares for the splits that are drawn"
    )


def _row_bytes(row: str | bytes | np.ndarray) -> bytes:
    if isinstance(row, str):
        return row.encode("utf-8", "surrogatepass")  # JSON may hold lone surrogates
    return row if isinstance(row, bytes) else np.ascontiguousarray(row).tobytes()
