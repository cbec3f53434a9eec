from __future__ import annotations

import numpy as np
import pytest

from calibration.dataset import split_rows
from calibration.digits import ROWS, compose_digits

SMALL = {"fit": 60, "tune": 20, "certify": 20, "test": 20}


def test_default_sizes_are_the_documented_ones() -> None:
    assert ROWS == {"fit": 12_000, "tune": 3_000, "certify": 3_000, "test": 3_000}


def test_images_and_labels_have_the_documented_shape() -> None:
    data = compose_digits(rows=SMALL)
    assert np.bincount(data.split).tolist() == list(SMALL.values())
    images = split_rows(data, "fit")
    assert images.shape == (60, 1, 32, 32)
    assert images.dtype == np.float32
    assert 0 <= images.min() < images.max() <= 1
    assert data.labels.shape == (120, 10)
    assert set(data.labels.sum(axis=1)) <= {1, 2, 3}


def test_the_seed_decides_everything() -> None:
    assert compose_digits(5, SMALL).digest == compose_digits(5, SMALL).digest
    assert compose_digits(5, SMALL).digest != compose_digits(6, SMALL).digest


def test_splits_use_disjoint_source_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    import calibration.digits as digits

    pools = []
    compose = digits._compose

    def recorded(pool: np.ndarray, *rest: object) -> object:
        pools.append(set(pool.tolist()))
        return compose(pool, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(digits, "_compose", recorded)
    compose_digits(rows=SMALL)
    assert len(set.union(*pools)) == sum(len(pool) for pool in pools) == 1797
