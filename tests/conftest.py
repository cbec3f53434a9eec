"""Real parts for all tests: a small bundle, trained, calibrated and certified once per run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from rich.progress import Progress

from calibration.data import Splits
from calibration.demo import build_demo
from calibration.digits import compose_digits
from calibration.pipeline import CalibrationOptions
from calibration.training import TrainingConfig
from models.bundle import Bundle
from models.runtime import StageRuntime

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def progress() -> Progress:
    return Progress(disable=True)


@pytest.fixture(scope="session")
def splits() -> Splits:
    return compose_digits(seed=3, rows={"fit": 4000, "tune": 600, "certify": 800, "test": 400})


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory, splits: Splits, progress: Progress) -> Bundle:
    """Epsilon is wide because four short epochs teach little: rows must leave at several exits."""
    return build_demo(
        tmp_path_factory.mktemp("bundles") / "digits",
        CalibrationOptions(name="digits", epsilon=0.25),
        progress,
        splits=splits,
        training=TrainingConfig(epochs=4, batch=64),
    )


@pytest.fixture(scope="session")
def runtime(bundle: Bundle) -> StageRuntime:
    return StageRuntime(bundle.model, bundle.manifest.carries)


@pytest.fixture(scope="session")
def rows(splits: Splits) -> np.ndarray:
    return splits.test.inputs
