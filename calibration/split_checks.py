"""What must hold between splits: they do not overlap, and the certify split is a fresh one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import combinations
from pathlib import Path

import numpy as np

from calibration.dataset import SPLITS
from models.bundle import MANIFEST
from models.errors import CalibrationError

LARGEST_OVERLAP = 0.1  # of the rows of a split: short texts do recur


def check_overlap(
    hashes: np.ndarray, rows: Mapping[str, np.ndarray], allow: bool = False
) -> list[str]:
    """Refuse splits that share more rows than chance explains.

    Parameters
    ----------
    hashes : uint64 (n,), of the raw rows
    rows : by split, int (m,)
    allow : only warn, however many there are

    Returns
    -------
    A warning for every two splits that share rows, with the split that has the larger share.

    Raises
    ------
    CalibrationError
        Names the two splits and how many rows they share.
    """
    warnings = []
    for one, other in combinations(SPLITS, 2):
        shared, total, found = max(
            _shared(hashes, rows, other, one),
            _shared(hashes, rows, one, other),
            key=lambda overlap: overlap[0] / overlap[1],
        )
        if not shared:
            continue
        if shared > LARGEST_OVERLAP * total and not allow:
            raise CalibrationError(
                f"{found}: splits have to be kept apart, or nothing measured on them can be "
                "believed; give other files or another --split-column, leave duplicates out, or, "
                "if equal rows are in the nature of the data, say --allow-duplicates"
            )
        warnings.append(f"{found}.")
    return warnings


def _shared(
    hashes: np.ndarray, rows: Mapping[str, np.ndarray], split: str, beside: str
) -> tuple[int, int, str]:
    """How many rows of a split occur in the one beside it too, of how many, and both in words."""
    total = len(rows[split])
    shared = int(np.isin(hashes[rows[split]], hashes[rows[beside]]).sum())
    found = f"{shared} of {total} rows of the {split} split also occur in the {beside} split"
    return shared, total, found


def certified_before(directories: Mapping[str, Path]) -> dict[str, str]:
    """Certify splits that bundles were certified with: sha256 -> the bundle's name.

    Parameters
    ----------
    directories : possible bundles by name; what is none is passed over
    """
    used = {}
    for name, path in directories.items():
        try:
            manifest = json.loads((path / MANIFEST).read_bytes())
            used[str(manifest["splits"]["certify"]["sha256"])] = name
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return used


def reuse_warning(digest: str, used: Mapping[str, str]) -> list[str]:
    """What to say when the certify split of this hash has certified another bundle."""
    if digest not in used:
        return []
    return [
        f"The certify split has already certified the bundle {used[digest]}: the promise holds "
        "only if nothing was chosen after looking at that result. Give fresh rows where it was."
    ]
