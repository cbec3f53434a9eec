from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibration.dataset import SPLITS
from calibration.split_checks import (
    LARGEST_OVERLAP,
    certified_before,
    check_overlap,
    reuse_warning,
)
from models.bundle import MANIFEST
from models.errors import CalibrationError

ROWS = 100
TWO = list(combinations(SPLITS, 2))
PAIRS = pytest.mark.parametrize(("one", "other"), TWO)


def splits() -> dict[str, np.ndarray]:
    """Four splits of a hundred rows each, which are shuffled."""
    order = np.random.default_rng(0).permutation(len(SPLITS) * ROWS)
    return dict(zip(SPLITS, np.split(order, len(SPLITS)), strict=True))


def hashes_with(shared: int, one: str, other: str) -> np.ndarray:
    """Hashes of rows of which `shared` occur in both splits, the others only once."""
    hashes = np.arange(len(SPLITS) * ROWS, dtype=np.uint64) + np.uint64(2**63)
    rows = splits()
    hashes[rows[other][:shared]] = hashes[rows[one][-shared:]] if shared else []
    return hashes


@PAIRS
def test_splits_that_share_nothing_raise_no_word(one: str, other: str) -> None:
    assert check_overlap(hashes_with(0, one, other), splits()) == []


@PAIRS
@given(shared=st.integers(1, ROWS))
def test_what_two_splits_share_is_told_or_refused(one: str, other: str, shared: int) -> None:
    hashes, found = hashes_with(shared, one, other), f"{shared} of {ROWS} rows of the {other} split"
    said = f"{found} also occur in the {one} split"
    if shared <= LARGEST_OVERLAP * ROWS:
        assert check_overlap(hashes, splits()) == [f"{said}."]
    else:
        with pytest.raises(CalibrationError, match=f"^{said}: splits have to be kept apart") as bad:
            check_overlap(hashes, splits())
        assert "--allow-duplicates" in str(bad.value)
    assert check_overlap(hashes, splits(), allow=True) == [f"{said}."]


def test_ten_rows_of_a_hundred_may_recur_and_eleven_may_not() -> None:
    assert len(check_overlap(hashes_with(10, "fit", "certify"), splits())) == 1
    with pytest.raises(CalibrationError, match="11 of 100 rows of the certify split"):
        check_overlap(hashes_with(11, "fit", "certify"), splits())


def test_a_row_that_recurs_within_its_own_split_is_none_of_this() -> None:
    hashes = hashes_with(0, "fit", "tune")
    hashes[splits()["certify"]] = np.uint64(7)
    assert check_overlap(hashes, splits()) == []


def test_a_row_that_recurs_in_all_splits_is_told_for_every_two() -> None:
    hashes = hashes_with(0, "fit", "tune")
    hashes[[rows[0] for rows in splits().values()]] = np.uint64(7)
    assert len(check_overlap(hashes, splits())) == 6


@pytest.mark.parametrize(("small", "large"), TWO)
@pytest.mark.parametrize("turned", [False, True])
def test_a_small_split_inside_a_large_one_is_refused(small: str, large: str, turned: bool) -> None:
    """However few the shared rows are beside the larger one."""
    if turned:
        small, large = large, small
    rows = {name: np.arange(20) + 20 * n for n, name in enumerate(SPLITS)}
    rows[large] = np.arange(1000, 11_000)
    hashes = np.arange(11_000, dtype=np.uint64)
    hashes[rows[small]] = hashes[rows[large][:20]]
    found = f"^20 of 20 rows of the {small} split also occur in the {large} split"
    with pytest.raises(CalibrationError, match=found):
        check_overlap(hashes, rows)


def write_manifest(directory: Path, manifest: Any) -> Path:
    directory.mkdir()
    (directory / MANIFEST).write_text(
        manifest if isinstance(manifest, str) else json.dumps(manifest)
    )
    return directory


def used_by(digest: str) -> dict[str, Any]:
    return {"splits": {"certify": {"rows": 5, "sha256": digest}, "test": {"sha256": "0" * 64}}}


def test_certify_splits_of_other_bundles_are_found(tmp_path: Path) -> None:
    directories = {
        name: write_manifest(tmp_path / name, used_by(digest))
        for name, digest in (("first", "a" * 64), ("second", "b" * 64))
    }
    assert certified_before(directories) == {"a" * 64: "first", "b" * 64: "second"}


@pytest.mark.parametrize(
    "content",
    [
        "no json",
        "",
        "[1]",
        "null",
        '{"splits": {}}',
        '{"splits": []}',
        '{"splits": {"certify": 3}}',
    ],
)
def test_what_is_no_bundle_is_passed_over(tmp_path: Path, content: str) -> None:
    directories = {
        "broken": write_manifest(tmp_path / "broken", content),
        "missing": tmp_path / "missing",
        "bundle": write_manifest(tmp_path / "bundle", used_by("c" * 64)),
    }
    assert certified_before(directories) == {"c" * 64: "bundle"}


def test_a_certify_split_that_was_used_before_is_told_with_the_bundles_name() -> None:
    used = {"a" * 64: "first", "b" * 64: "second"}
    (warning,) = reuse_warning("b" * 64, used)
    assert warning.startswith("The certify split has already certified the bundle second: ")
    assert warning.endswith("Give fresh rows where it was.")
    assert reuse_warning("c" * 64, used) == []
    assert reuse_warning("c" * 64, {}) == []
