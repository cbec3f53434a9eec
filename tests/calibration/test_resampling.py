from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calibration.resampling import Resampled, Resamples
from calibration.transport import exact_w
from models.errors import CalibrationError


@settings(deadline=None)
@given(st.integers(2, 300), st.integers(1, 100), st.integers(0, 99))
def test_sub_samples_are_rows_of_the_split(total: int, rows: int, seed: int) -> None:
    resamples = Resamples.of(total, seed, rows=rows)
    for sample in (*resamples.parts, *resamples.draws):
        assert len(sample) == resamples.rows == min(rows, total)
        assert sample.min() >= 0
        assert sample.max() < total
    for part in resamples.parts:
        assert len(np.unique(part)) == len(part)
    assert resamples.part_rows == len(np.unique(np.concatenate(resamples.parts)))


def test_parts_share_no_row_where_there_are_enough() -> None:
    resamples = Resamples.of(2600, seed=0)
    assert len(np.unique(np.concatenate(resamples.parts))) == 2500
    assert len(resamples.draws) == 20


def test_one_part_holds_a_small_split_and_is_measured_once() -> None:
    resamples = Resamples.of(300, seed=0)
    assert len(resamples.parts) == 1
    assert sorted(resamples.parts[0]) == list(range(300))
    assert any(len(np.unique(draw)) < 300 for draw in resamples.draws)


def test_the_seed_decides_the_rows() -> None:
    one, again, other = (Resamples.of(900, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.parts, again.parts)
    np.testing.assert_array_equal(one.draws, again.draws)
    assert (one.parts[0] != other.parts[0]).any()
    assert (one.draws[0] != other.draws[0]).any()


@pytest.mark.parametrize("total", [0, 1])
def test_too_few_rows_are_refused(total: int) -> None:
    with pytest.raises(CalibrationError, match=f"at least 2 rows.*found {total}"):
        Resamples.of(total, seed=0)


def test_replicates_over_fewer_rows_are_drawn_in_around_the_value() -> None:
    replicates = np.array([1.0, 2.0, 3.0, 6.0])
    measured = Resampled(10.0, replicates, drawn=100, rows=400)
    np.testing.assert_allclose(measured.rescaled(), [9, 9.5, 10, 11.5])
    assert measured.spread == pytest.approx(replicates.std(ddof=1))


def test_an_interval_is_about_two_standard_errors_wide_on_each_side() -> None:
    replicates = np.random.default_rng(0).normal(5, 0.2, 2000)
    interval = Resampled(4.0, replicates, drawn=100, rows=400).estimate()
    assert interval.low == pytest.approx(4 - 1.96 * 0.1, abs=0.01)
    assert interval.high == pytest.approx(4 + 1.96 * 0.1, abs=0.01)


def test_an_interval_stays_where_values_can_be() -> None:
    wide = Resampled(0.9, np.array([0.0, 3.0]), drawn=5, rows=5).estimate(most=1.0)
    assert (wide.low, wide.value, wide.high) == (0, 0.9, 1)


@pytest.mark.parametrize("total", [400, 40])
@pytest.mark.parametrize("paired", [True, False], ids=["answers and labels", "equal laws"])
def test_intervals_cover_the_expected_distance(total: int, paired: bool) -> None:
    """Of 100 intervals of 95 %, 88 cover, three standard errors below 95: also in small splits."""
    rng = np.random.default_rng(total)

    def sample(rows: int) -> tuple[np.ndarray, np.ndarray]:
        labels = (rng.random((2, rows, 3)) < 0.3).astype(float)
        answers = np.clip(0.6 * labels + rng.beta(1, 4, labels.shape), 0, 1)
        return answers[0], labels[0] if paired else answers[1]

    rows = 40
    expected = np.mean([exact_w(*sample(rows)) for _ in range(1000)])
    covered = 0
    for seed in range(100):
        points, target = sample(total)
        resamples = Resamples.of(total, seed, rows=rows)
        parts, draws = (
            np.array([exact_w(points[chosen], target[chosen]) for chosen in sets])
            for sets in (resamples.parts, resamples.draws)
        )
        measured = Resampled(parts.mean(), draws, resamples.rows, resamples.part_rows)
        interval = measured.estimate()
        covered += interval.low <= expected <= interval.high
    assert covered >= 88
