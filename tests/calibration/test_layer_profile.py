from __future__ import annotations

import numpy as np
import pytest
from rich.progress import Progress
from scipy.stats import spearmanr

from calibration.distances import measure_distances, noise_floor
from calibration.layer_profile import profile_layers
from calibration.quality import micro_f1
from calibration.resampling import Resamples
from models.errors import CalibrationError
from models.measurements import Profile
from models.runtime import Answers

ROWS, LABELS = 120, 4
SHARPNESS = (0.5, 1.5, 3.0, 5.0)  # of the layers' answers, from blind to sure


@pytest.fixture(scope="module")
def truth() -> np.ndarray:
    return np.random.default_rng(0).random((ROWS, LABELS)) < 0.3


@pytest.fixture(scope="module")
def answers(truth: np.ndarray) -> list[Answers]:
    rng = np.random.default_rng(1)
    noise = rng.normal(size=truth.shape)
    logits = [(sharpness * (2 * truth - 1) + noise) for sharpness in SHARPNESS]
    made = [(1 / (1 + np.exp(-z))).astype(np.float32) for z in logits]
    return [Answers(p, p > 0.5, p.max(axis=1)) for p in made]


@pytest.fixture(scope="module")
def profile(truth: np.ndarray, answers: list[Answers]) -> Profile:
    return profile_of(answers, truth, noise=[0.1, 0.2, 0.3, 0.4], seeds=[0.5, 0.6, 0.7, 0.8])


def profile_of(
    answers: list[Answers],
    truth: np.ndarray,
    noise: list[float] | None = None,
    seeds: list[float] | None = None,
) -> Profile:
    return profile_layers(
        [(f"layer {k}", float(k + 1)) for k in range(len(answers))],
        answers,
        answers[-1].probabilities,
        truth,
        seed=7,
        progress=Progress(disable=True),
        noise=noise,
        seeds=seeds,
    )


def test_layers_are_in_order_with_what_belongs_to_them(
    profile: Profile, answers: list[Answers], truth: np.ndarray
) -> None:
    resamples = Resamples.of(ROWS, seed=7)
    assert profile.batch_rows == ROWS
    for k, (layer, own) in enumerate(zip(profile.layers, answers, strict=True)):
        assert (layer.layer, layer.milliseconds) == (f"layer {k}", k + 1)
        teacher, wanted = answers[-1].probabilities, truth.astype(np.float32)
        assert layer.to_teacher == measure_distances(own.probabilities, teacher, resamples)
        assert layer.to_labels == measure_distances(own.probabilities, wanted, resamples)
        assert layer.micro_f1.value == pytest.approx(micro_f1(own.labels, truth))
        hits = (own.labels & truth).sum(axis=0)
        expected = 2 * hits / (own.labels.sum(axis=0) + truth.sum(axis=0))
        assert layer.label_f1 == pytest.approx(tuple(expected))


def test_the_floors_are_those_of_the_two_targets(
    profile: Profile, answers: list[Answers], truth: np.ndarray
) -> None:
    assert profile.floor_teacher == noise_floor(answers[-1].probabilities, 7)
    assert profile.floor_labels == noise_floor(truth.astype(np.float32), 7)


def test_sharper_layers_are_nearer_and_the_full_model_is_its_own_teacher(profile: Profile) -> None:
    by_depth = [layer.to_labels.w2.value for layer in profile.layers]
    assert by_depth == sorted(by_depth, reverse=True)
    assert profile.layers[-1].to_teacher.w2.high == 0


def test_quality_has_an_interval_within_its_bounds(profile: Profile) -> None:
    first, *_, last = (layer.micro_f1 for layer in profile.layers)
    assert 0 < first.low < first.value < first.high < 1
    assert last.high <= 1


def test_stability_is_over_batches_seeds_and_noise(profile: Profile) -> None:
    assert [layer.stability.noise for layer in profile.layers] == [0.1, 0.2, 0.3, 0.4]
    assert [layer.stability.seeds for layer in profile.layers] == [0.5, 0.6, 0.7, 0.8]
    for layer in profile.layers:
        # one part holds all rows here: the interval is 2 standard errors of t, 19 degrees
        width = layer.to_labels.w2.high - layer.to_labels.w2.value
        assert layer.stability.batches == pytest.approx(width / 2.093, rel=1e-3)


def test_what_was_not_asked_for_is_none(truth: np.ndarray, answers: list[Answers]) -> None:
    for layer in profile_of(answers[:1], truth).layers:
        assert layer.stability.noise is None
        assert layer.stability.seeds is None


def test_the_correlation_is_spearmans(profile: Profile) -> None:
    w2 = [layer.to_labels.w2.value for layer in profile.layers]
    quality = [layer.micro_f1.value for layer in profile.layers]
    assert profile.correlation is not None
    assert profile.correlation.value == pytest.approx(spearmanr(w2, quality).statistic)
    assert profile.correlation.value == pytest.approx(-1)
    assert profile.correlation.high < -0.7


def test_layers_that_are_all_alike_have_an_uncertain_correlation(truth: np.ndarray) -> None:
    rng = np.random.default_rng(3)
    alike = []
    for _ in SHARPNESS:
        p = (1 / (1 + np.exp(-(2 * truth - 1) - rng.normal(size=truth.shape)))).astype(np.float32)
        alike.append(Answers(p, p > 0.5, p.max(axis=1)))
    correlation = profile_of(alike, truth).correlation
    assert correlation is not None
    assert -1 <= correlation.low <= correlation.value <= correlation.high <= 1
    assert correlation.high - correlation.low > 0.5


def test_two_layers_have_no_correlation(truth: np.ndarray, answers: list[Answers]) -> None:
    assert profile_of(answers[:2], truth).correlation is None
    assert profile_of([answers[0]] * 3, truth).correlation is not None


def test_one_row_is_refused(truth: np.ndarray, answers: list[Answers]) -> None:
    with pytest.raises(CalibrationError, match="at least 2 rows"):
        profile_of([answers[0].take(np.array([0]))], truth[:1])


def test_a_device_that_is_missing_is_refused(truth: np.ndarray, answers: list[Answers]) -> None:
    with pytest.raises(CalibrationError, match=r"'tpu'.*no such device"):
        profile_layers(
            [("only", 1.0)],
            answers[:1],
            answers[-1].probabilities,
            truth,
            0,
            Progress(disable=True),
            device="tpu",
        )
