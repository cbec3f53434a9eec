from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from rich.progress import Progress

from calibration.head_options import HeadOptions
from calibration.head_training import train_heads
from calibration.layer_answers import calibrated_head, layer_answers
from calibration.measure import micro_f1
from models.errors import CalibrationError
from models.heads import HeadLayers, head_model
from models.runtime import open_session

OPTIONS = HeadOptions(hidden=32, batch=64, max_epochs=40)
ROWS, WIDTH, LABELS = 1500, 10, 3


@pytest.fixture(scope="module")
def task() -> tuple[np.ndarray, np.ndarray]:
    """Features whose label sets are half-planes and one that is not linear."""
    rng = np.random.default_rng(0)
    feature = rng.normal(loc=3, scale=5, size=(ROWS, WIDTH)).astype(np.float16)
    standard = (feature.astype(float) - 3) / 5
    linear = standard @ rng.normal(size=(WIDTH, LABELS)) > 0.5
    linear[:, 2] = np.abs(standard[:, 0]) > 0.7
    return feature, linear


def train(feature: np.ndarray, labels: np.ndarray, options: HeadOptions = OPTIONS) -> HeadLayers:
    rows = np.arange(1000)
    [head] = train_heads([feature], rows, labels[rows], None, options, Progress(disable=True))
    return head


def quality(head: HeadLayers, feature: np.ndarray, labels: np.ndarray) -> float:
    tune, test = slice(1000, 1250), slice(1250, None)
    answers = layer_answers(feature[test], calibrated_head(feature[tune], labels[tune], head))
    return micro_f1(answers.labels, labels[test])


def test_a_hidden_layer_learns_what_a_linear_head_cannot(
    task: tuple[np.ndarray, np.ndarray],
) -> None:
    feature, labels = task
    hidden = quality(train(feature, labels), feature, labels)
    linear = quality(train(feature, labels, replace(OPTIONS, hidden=0)), feature, labels)
    assert hidden > 0.85
    assert hidden > linear + 0.02


def test_the_seed_decides_everything_and_layers_do_not_disturb_each_other(
    task: tuple[np.ndarray, np.ndarray],
) -> None:
    feature, labels = task
    rows = np.arange(1000)
    options = replace(OPTIONS, max_epochs=3)
    alone = train(feature, labels, options)
    among = train_heads(
        [feature[:, :4], feature, feature[:, 2:]],
        rows,
        labels[rows],
        None,
        options,
        Progress(disable=True),
    )
    np.testing.assert_array_equal(among[1].weights[0], alone.weights[0])
    other = train(feature, labels, replace(options, seed=1))
    assert not np.array_equal(other.weights[0], alone.weights[0])


def test_distillation_follows_the_teacher(task: tuple[np.ndarray, np.ndarray]) -> None:
    """With all its weight on a teacher that is always half sure, a head learns to be so too."""
    feature, labels = task
    rows = np.arange(1000)
    teacher = np.full((1000, LABELS), 0.5)
    options = replace(OPTIONS, distill=1.0, dropout=0.0)
    [head] = train_heads([feature], rows, labels[rows], teacher, options, Progress(disable=True))
    session = open_session(head_model(WIDTH, head).SerializeToString())
    logits = session.run(None, {"feature": feature[1000:]})[0]
    assert np.abs(logits).mean() < 0.3


def test_only_the_rows_of_the_fit_split_are_read(task: tuple[np.ndarray, np.ndarray]) -> None:
    feature, labels = task
    changed = feature.copy()
    changed[1000:] = 0
    options = replace(OPTIONS, max_epochs=2)
    np.testing.assert_array_equal(
        train(feature, labels, options).weights[0], train(changed, labels, options).weights[0]
    )


def test_a_constant_feature_does_no_harm(task: tuple[np.ndarray, np.ndarray]) -> None:
    feature, labels = task
    feature = feature.copy()
    feature[:, 3] = 7
    head = train(feature, labels, replace(OPTIONS, max_epochs=2))
    assert all(np.isfinite(weight).all() for weight in head.weights)


def test_features_that_are_not_finite_are_said_so(task: tuple[np.ndarray, np.ndarray]) -> None:
    feature, labels = task
    feature = feature.copy()
    feature[5] = np.nan
    with pytest.raises(CalibrationError, match="not finite"):
        train(feature, labels)
