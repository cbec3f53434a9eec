from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.errors import InvalidInput
from service.simulated_load import Load

MIX = (0.5, 0.3, 0.2)


@given(
    rate=st.floats(0.1, 1e4),
    sizes=st.lists(st.integers(1, 20), min_size=1, max_size=4),
    seed=st.integers(0, 2**32),
)
def test_arrivals_are_within_their_span_and_every_row_has_an_exit(
    rate: float, sizes: list[int], seed: int
) -> None:
    arrivals = Load(rate, MIX, tuple(sizes)).arrivals(0.5, seed)
    assert np.all(np.diff(arrivals.times) >= 0)
    assert arrivals.times[0] >= 0
    assert arrivals.times[-1] <= arrivals.span == 500
    assert set(arrivals.sizes.tolist()) <= set(sizes)
    assert arrivals.rows == arrivals.sizes.sum() >= 1
    assert set(arrivals.exits.tolist()) <= {1, 2, 3}
    assert np.array_equal(arrivals.row_times[arrivals.starts], arrivals.times)


def test_rate_gaps_and_mix_are_those_asked_for() -> None:
    arrivals = Load(2000, MIX, (1, 3)).arrivals(100, 7)
    requests = len(arrivals.times)
    assert abs(requests - 100_000) < 3 * np.sqrt(100_000)
    gaps = np.diff(arrivals.times)
    assert gaps.std() / gaps.mean() == pytest.approx(1, abs=3 / np.sqrt(requests) * 1.5)
    for stage, share in enumerate(MIX, start=1):
        error = np.sqrt(share * (1 - share) / arrivals.rows)
        assert abs(np.mean(arrivals.exits == stage) - share) < 3 * error


def test_the_same_seed_brings_the_same_requests_whatever_the_mix() -> None:
    arrivals, same = (Load(500, MIX, (1, 8)).arrivals(1, 3) for _ in range(2))
    assert np.array_equal(arrivals.exits, same.exits)
    other_mix = Load(500, (1.0, 0.0, 0.0), (1, 8)).arrivals(1, 3)
    assert np.array_equal(other_mix.times, arrivals.times)
    assert np.array_equal(other_mix.sizes, arrivals.sizes)
    assert set(other_mix.exits.tolist()) == {1}
    assert not np.array_equal(Load(500, MIX, (1, 8)).arrivals(1, 4).times, arrivals.times)


def test_without_exits_every_row_leaves_behind_the_only_stage() -> None:
    arrivals = Load(500, MIX).arrivals(1, 0)
    whole = arrivals.without_exits()
    assert np.array_equal(whole.times, arrivals.times)
    assert np.array_equal(whole.exits, np.ones(arrivals.rows))


@pytest.mark.parametrize(
    ("rate", "mix", "sizes", "named"),
    [
        (0, MIX, (1,), "rate: found 0"),
        (-5, MIX, (1,), "rate: found -5"),
        (np.nan, MIX, (1,), "rate: found nan"),
        (10, (0.5, 0.4), (1,), "sums to 0.9, expected 1"),
        (10, (1.5, -0.5), (1,), "from 0 to 1"),
        (10, (np.nan, 1), (1,), "from 0 to 1"),
        (10, (), (1,), "found nothing"),
        (10, MIX, (4, 0), "found 4, 0"),
        (10, MIX, (), "found nothing"),
    ],
)
def test_loads_that_cannot_be_are_refused(
    rate: float, mix: tuple[float, ...], sizes: tuple[int, ...], named: str
) -> None:
    with pytest.raises(InvalidInput, match=named):
        Load(rate, mix, sizes)


@pytest.mark.parametrize("seconds", [0, -1, np.inf, np.nan])
def test_a_span_has_a_length(seconds: float) -> None:
    with pytest.raises(InvalidInput, match="seconds"):
        Load(10, MIX).arrivals(seconds, 0)


def test_more_rows_than_a_machine_can_simulate_are_refused_before_they_are_drawn() -> None:
    with pytest.raises(InvalidInput, match=r"1e\+09 rows .* take a shorter span"):
        Load(1e9, MIX).arrivals(1, 0)
