from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, f1_score

from calibration.quality import (
    BLOCK_ROWS,
    f1_of,
    label_f1,
    mean_average_precision,
    measure_quality,
    micro_f1,
)
from models.measurements import Comparison, PolicyQuality
from models.runtime import Answers

SEEDS = st.integers(0, 2**32 - 1)


def answers_to(truth: np.ndarray, noise: float, rng: np.random.Generator) -> Answers:
    """Answers that know the truth up to noise; probabilities in steps, so that there are ties."""
    noisy = 0.25 + 0.5 * truth + noise * rng.normal(size=truth.shape)
    probabilities = np.round(np.clip(noisy, 0, 1), 2).astype(np.float32)
    return Answers(probabilities, probabilities > 0.5, probabilities.max(axis=1))


def drawn(
    seed: int, rows: int = 80, labels: int = 6, density: float = 0.2
) -> tuple[Answers, Answers, np.ndarray]:
    """Answers of a policy, better ones of the full model, and the truth."""
    rng = np.random.default_rng(seed)
    truth = rng.random((rows, labels)) < density
    return answers_to(truth, 0.4, rng), answers_to(truth, 0.2, rng), truth


def measured(policy: Answers, full: Answers, truth: np.ndarray, seed: int = 0) -> PolicyQuality:
    names = [f"label {k}" for k in range(truth.shape[1])]
    return measure_quality(policy, full, truth, names, (0.5, 0.7), seed)[0]


def comparisons(quality: PolicyQuality) -> list[Comparison]:
    assert quality.mean_average_precision is not None
    return [quality.micro_f1, quality.macro_f1, quality.mean_average_precision]


@settings(deadline=None, max_examples=50)
@given(SEEDS, st.sampled_from([0.0, 0.05, 0.3, 1.0]))
def test_f1_equals_sklearns(seed: int, density: float) -> None:
    policy, _, truth = drawn(seed, rows=12, density=density)
    predicted = policy.labels
    predicted[:, 0] = truth[:, 0] = False  # nothing against nothing
    expected = f1_score(truth, predicted, average=None, zero_division=1.0)
    assert label_f1(predicted, truth) == pytest.approx(expected)
    assert micro_f1(predicted, truth) == pytest.approx(
        f1_score(truth, predicted, average="micro", zero_division=1.0)
    )


def test_f1_of_nothing_against_nothing_is_one() -> None:
    assert f1_of(np.array([0, 0, 1]), np.array([0, 3, 2])).tolist() == [1, 0, 1]
    assert micro_f1(np.zeros((3, 2), bool), np.zeros((3, 2), bool)) == 1


@settings(deadline=None, max_examples=50)
@given(SEEDS, st.sampled_from([0.03, 0.3, 0.97]))
def test_mean_average_precision_equals_sklearns_over_labels_with_both_kinds_of_rows(
    seed: int, density: float
) -> None:
    policy, _, truth = drawn(seed, rows=30, density=density)
    truth[0, 0], truth[1, 0] = True, False
    both = truth.any(axis=0) & ~truth.all(axis=0)
    expected = [
        average_precision_score(truth[:, k], policy.probabilities[:, k])
        for k in np.flatnonzero(both)
    ]
    assert mean_average_precision(policy.probabilities, truth) == pytest.approx(np.mean(expected))


@pytest.mark.parametrize("everywhere", [True, False])
def test_there_is_no_average_precision_without_both_kinds_of_rows(everywhere: bool) -> None:
    policy, full, _ = drawn(0)
    truth = np.full(policy.labels.shape, everywhere)
    assert mean_average_precision(policy.probabilities, truth) is None
    assert measured(policy, full, truth).mean_average_precision is None


@settings(deadline=None, max_examples=20)
@given(SEEDS)
def test_identical_answers_differ_by_exactly_nothing(seed: int) -> None:
    policy, _, truth = drawn(seed)
    for comparison in comparisons(measured(policy, policy, truth)):
        difference = comparison.difference
        assert (difference.value, difference.low, difference.high) == (0, 0, 0)
        assert comparison.policy == comparison.full_depth


@settings(deadline=None, max_examples=20)
@given(SEEDS)
def test_swapping_policy_and_full_model_mirrors_the_interval(seed: int) -> None:
    policy, full, truth = drawn(seed)
    there, back = measured(policy, full, truth), measured(full, policy, truth)
    for one, other in zip(comparisons(there), comparisons(back), strict=True):
        mirrored = [-other.difference.value, -other.difference.high, -other.difference.low]
        found = [one.difference.value, one.difference.low, one.difference.high]
        assert found == pytest.approx(mirrored)


def test_values_are_those_of_the_rows_and_lie_in_their_interval() -> None:
    policy, full, truth = drawn(0, rows=400)
    quality = measured(policy, full, truth)
    by_metric = zip(
        comparisons(quality),
        (
            lambda a: f1_score(truth, a.labels, average="micro"),
            lambda a: f1_score(truth, a.labels, average="macro"),
            lambda a: average_precision_score(truth, a.probabilities, average="macro"),
        ),
        strict=True,
    )
    for comparison, metric in by_metric:
        assert comparison.policy == pytest.approx(metric(policy))
        assert comparison.full_depth == pytest.approx(metric(full))
        difference = comparison.difference
        assert difference.value == comparison.policy - comparison.full_depth
        assert difference.low < difference.value < difference.high < 0
    assert quality.set_agreement == np.mean((policy.labels == full.labels).all(axis=1))
    assert (quality.computed_time, quality.computed_time_single) == (0.5, 0.7)


def test_intervals_equal_a_bootstrap_that_resamples_the_rows_themselves() -> None:
    """Two bootstraps agree up to the error of their finite numbers of resamples."""
    policy, full, truth = drawn(3, rows=150)
    rng = np.random.default_rng(1)
    found = []
    for _ in range(1000):
        rows = rng.integers(150, size=150)
        found.append(
            [
                micro_f1(policy.labels[rows], truth[rows])
                - micro_f1(full.labels[rows], truth[rows]),
                label_f1(policy.labels[rows], truth[rows]).mean()
                - label_f1(full.labels[rows], truth[rows]).mean(),
                float(mean_average_precision(policy.probabilities[rows], truth[rows]) or 0)
                - float(mean_average_precision(full.probabilities[rows], truth[rows]) or 0),
            ]
        )
    spread = np.std(found, axis=0)
    expected = np.percentile(found, (2.5, 97.5), axis=0).T
    for comparison, limits, deviation in zip(
        comparisons(measured(policy, full, truth)), expected, spread, strict=True
    ):
        interval = comparison.difference
        assert [interval.low, interval.high] == pytest.approx(limits, abs=0.6 * deviation)


@pytest.mark.parametrize(
    "lost", [0, BLOCK_ROWS - 1, BLOCK_ROWS, 2 * BLOCK_ROWS, 2 * BLOCK_ROWS + 9]
)
def test_a_single_lost_row_is_seen_wherever_it_stands(lost: int) -> None:
    truth = np.ones((2 * BLOCK_ROWS + 10, 1), bool)
    full = Answers(truth.astype(np.float32), truth, np.ones(len(truth)))
    labels = truth.copy()
    labels[lost] = False
    policy = Answers(full.probabilities, labels, full.score)
    difference = measured(policy, full, truth).micro_f1.difference
    assert difference.low < difference.value < difference.high == 0


def test_a_resample_without_a_label_says_nothing_of_its_average_precision() -> None:
    """Two in five miss the only positive row; counted as 0 they would pull `low` there."""
    truth = np.arange(50)[:, None] == 0
    first, last = (Answers(p, p > 0.5, p[:, 0]) for p in (1.0 * truth, 1.0 * ~truth))
    comparison = measured(first, last, truth).mean_average_precision
    assert comparison is not None
    assert (comparison.policy, comparison.full_depth) == (1, 1 / 50)
    assert comparison.difference.low > 0.8


def test_intervals_narrow_with_the_root_of_the_rows() -> None:
    policy, full, truth = drawn(0, rows=3200)
    widths = []
    for rows in (200, 800, 3200):
        part = np.arange(rows)
        difference = measured(policy.take(part), full.take(part), truth[part]).micro_f1.difference
        widths.append(difference.high - difference.low)
    assert all(narrow == pytest.approx(wide / 2, rel=0.25) for wide, narrow in pairwise(widths))


def test_resamples_are_drawn_from_the_seed() -> None:
    policy, full, truth = drawn(0)
    assert measured(policy, full, truth, seed=1) == measured(policy, full, truth, seed=1)
    assert measured(policy, full, truth, seed=1) != measured(policy, full, truth, seed=2)


def test_every_label_is_shown_beside_full_depth() -> None:
    policy, full, truth = drawn(0, labels=3)
    _, changes = measure_quality(policy, full, truth, ["a", "b", "c"], (1, 1), 0)
    assert [change.label for change in changes] == ["a", "b", "c"]
    assert [change.positives for change in changes] == truth.sum(axis=0).tolist()
    assert [change.f1 for change in changes] == label_f1(policy.labels, truth).tolist()
    assert [change.f1_full_depth for change in changes] == label_f1(full.labels, truth).tolist()


@pytest.mark.slow
def test_intervals_cover_the_true_difference_as_often_as_they_say() -> None:
    """95 %, up to three standard errors of the simulation, for all three qualities."""
    population = drawn(7, rows=200_000, labels=5)
    policy, full, truth = population
    target = [
        micro_f1(policy.labels, truth) - micro_f1(full.labels, truth),
        label_f1(policy.labels, truth).mean() - label_f1(full.labels, truth).mean(),
        float(mean_average_precision(policy.probabilities, truth) or 0)
        - float(mean_average_precision(full.probabilities, truth) or 0),
    ]
    rng = np.random.default_rng(0)
    simulations = 300
    covered = np.zeros(3)
    for seed in range(simulations):
        rows = rng.integers(len(truth), size=400)
        quality = measured(policy.take(rows), full.take(rows), truth[rows], seed)
        differences = [comparison.difference for comparison in comparisons(quality)]
        covered += [d.low <= t <= d.high for d, t in zip(differences, target, strict=True)]
    tolerance = 3 * np.sqrt(0.95 * 0.05 / simulations)
    assert covered / simulations == pytest.approx(0.95, abs=tolerance)
