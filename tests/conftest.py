"""Real parts for all tests: a small bundle, trained, calibrated and certified once per run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from rich.progress import Progress

from calibration.dataset import Dataset, split_rows
from calibration.demo import build_demo
from calibration.digits import compose_digits
from calibration.guarantee import GuaranteeOptions
from models.bundle import Bundle
from models.runtime import StageRuntime, at_exits

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def progress() -> Progress:
    return Progress(disable=True)


@pytest.fixture(scope="session")
def digits() -> Dataset:
    return compose_digits(seed=3, rows={"fit": 4000, "tune": 600, "certify": 800, "test": 400})


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory, digits: Dataset, progress: Progress) -> Bundle:
    """Epsilon is wide because six short epochs teach little: rows must leave at several exits."""
    return build_demo(
        tmp_path_factory.mktemp("bundles") / "digits",
        GuaranteeOptions(epsilons=(0.25,)),
        progress,
        dataset=digits,
        training={"epochs": 6, "batch": 64},
    )


@pytest.fixture(scope="session")
def runtime(bundle: Bundle) -> StageRuntime:
    return StageRuntime(bundle.model, bundle.manifest.carries)


@pytest.fixture(scope="session")
def rows(digits: Dataset) -> np.ndarray:
    return split_rows(digits, "test")


@pytest.fixture(scope="session")
def lost(bundle: Bundle, runtime: StageRuntime, rows: np.ndarray) -> np.ndarray:
    """Which rows the certified policy answers otherwise than full depth does: bool (n,)."""
    answers = runtime.all_exits((rows,))
    route = bundle.manifest.policy.route([exit_answers.score for exit_answers in answers])
    return np.asarray((at_exits(answers, route).labels != answers[-1].labels).any(axis=1))
