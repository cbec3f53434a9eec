from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.errors import InvalidInput
from service.costs import CostModel
from service.scheduler import Mode
from service.simulated_load import Arrivals, Load
from service.simulator import Bounds, simulate

ALONE, FULL = [3.0, 1.5, 2.25], [8.0, 4.0, 6.0]  # ms of one row, and of a full batch of eight
COSTS = CostModel((1, 8), list(zip(ALONE, FULL, strict=True)), max_batch_rows=8)
ONE_BY_ONE = CostModel((1, 2), [[1.0, 2.0]])
"""A larger batch is no cheaper: every batch holds one row."""
MIX = (0.5, 0.2, 0.3)


def requests(*sent: tuple[float, list[int]]) -> Arrivals:
    """Requests by their times, with the exits of their rows."""
    return Arrivals(
        np.array([time for time, _ in sent], float),
        np.array([len(exits) for _, exits in sent]),
        np.array([exit_ for _, exits in sent for exit_ in exits]),
        span=1000.0,
    )


loads = st.builds(
    Load,
    rate=st.floats(20, 2000),
    mix=st.sampled_from([MIX, (1.0, 0.0, 0.0), (0.0, 0.0, 1.0), (0.2, 0.6, 0.2)]),
    rows_per_request=st.sampled_from([(1,), (3,), (1, 2, 20)]),
)
modes = st.sampled_from(["rebatch", "compact"])


@settings(max_examples=60, deadline=None)
@given(
    load=loads,
    mode=modes,
    lanes=st.integers(1, 4),
    capacity=st.sampled_from([20, 64, 4096]),
    seed=st.integers(0, 1000),
)
def test_nothing_is_lost_and_nothing_is_faster_than_its_stages(
    load: Load, mode: Mode, lanes: int, capacity: int, seed: int
) -> None:
    arrivals = load.arrivals(0.5, seed)
    outcome = simulate(arrivals, COSTS, lanes, mode, Bounds(max_queue_rows=capacity))
    answered = outcome.exits > 0
    assert np.array_equal(answered, ~outcome.refused)
    assert np.array_equal(outcome.exits[answered], arrivals.exits[answered])
    assert np.array_equal(np.isnan(outcome.latency), ~answered)
    least = np.cumsum(ALONE)[arrivals.exits - 1]
    assert np.all(outcome.latency[answered] >= least[answered] - 1e-6)
    for stage in (1, 2, 3):
        ran = outcome.runs.rows[outcome.runs.stage == stage].sum()
        assert ran == np.sum(arrivals.exits[answered] >= stage)
    assert outcome.runs.rows.max() <= 8
    assert 0 < outcome.utilisation <= 1 + 1e-9


@settings(max_examples=30, deadline=None)
@given(load=loads, seed=st.integers(0, 1000))
def test_rows_take_up_room_until_their_request_is_answered(load: Load, seed: int) -> None:
    arrivals = load.arrivals(0.5, seed)
    outcome = simulate(arrivals, COSTS, 1, bounds=Bounds(max_queue_rows=20))
    done = arrivals.times + np.maximum.reduceat(outcome.latency, arrivals.starts)
    admitted = ~outcome.refused[arrivals.starts]
    for time in arrivals.times[admitted]:
        inside = admitted & (arrivals.times <= time) & (done > time)
        assert arrivals.sizes[inside].sum() <= 20


def test_a_lone_row_takes_its_stages_one_after_the_other() -> None:
    outcome = simulate(requests((5.0, [3])), COSTS, 2)
    assert outcome.latency.tolist() == [sum(ALONE)]
    assert outcome.span == sum(ALONE)


def test_rows_that_come_while_a_lane_is_busy_share_the_next_batch() -> None:
    outcome = simulate(requests((0.0, [1]), (0.5, [1]), (1.0, [1])), COSTS, 1)
    pair = COSTS.milliseconds(1, (), 2)
    assert outcome.latency.tolist() == pytest.approx([3.0, 2.5 + pair, 2.0 + pair])
    assert outcome.runs.rows.tolist() == [1, 2]
    assert outcome.runs.fill(1) == pytest.approx((1 / 8 + 2 / 8) / 2)
    assert outcome.runs.mean_rows(1) == 1.5
    assert np.isnan(outcome.runs.mean_rows(2))


def test_a_request_is_answered_with_its_last_row() -> None:
    outcome = simulate(requests((0.0, [1, 3])), COSTS, 1)
    assert outcome.requests.p50 == outcome.latency.max() > outcome.latency.min()
    assert outcome.rows_at(1).p99 == outcome.latency.min()
    assert outcome.share_at(1) == outcome.share_at(3) == 0.5


def test_one_lane_waits_as_queueing_theory_says() -> None:
    """M/D/1: the mean wait is load / (2 (1 - load)) services (Pollaczek and Khinchine)."""
    load = 0.7
    waits = []
    for seed in range(20):
        arrivals = Load(1000 * load, (1.0,)).arrivals(2, seed)
        waits.append(float(np.mean(simulate(arrivals, ONE_BY_ONE, 1).latency)) - 1)
    error = np.std(waits, ddof=1) / np.sqrt(len(waits))
    assert abs(np.mean(waits) - load / (2 * (1 - load))) < 3 * error
    assert error < 0.1  # ms: else this would show nothing


def test_twice_the_capacity_is_refused_to_half() -> None:
    arrivals = Load(2000, (1.0,)).arrivals(5, 1)
    outcome = simulate(arrivals, ONE_BY_ONE, 1, bounds=Bounds(max_queue_rows=50))
    assert outcome.refused_share == pytest.approx(0.5, abs=0.01)
    assert outcome.rows_per_second == pytest.approx(1000, rel=0.01)
    assert outcome.utilisation == pytest.approx(1, abs=0.01)
    assert outcome.rows.p50 == pytest.approx(50, rel=0.05)


def test_what_has_to_wait_too_long_at_worst_is_refused() -> None:
    arrivals = Load(2000, (1.0,)).arrivals(5, 1)
    outcome = simulate(arrivals, ONE_BY_ONE, 1, bounds=Bounds(max_wait=10))
    assert outcome.refused_share > 0.4
    assert np.nanmax(outcome.latency) < 10 + 3


@settings(max_examples=40, deadline=None)
@given(load=loads, mode=modes, deadline=st.floats(0.5, 30), seed=st.integers(0, 1000))
def test_no_answer_comes_after_its_deadline(
    load: Load, mode: Mode, deadline: float, seed: int
) -> None:
    arrivals = load.arrivals(0.5, seed)
    outcome = simulate(arrivals, COSTS, 1, mode, Bounds(deadline=deadline))
    answered = outcome.exits > 0
    assert not np.any(outcome.latency[answered] > deadline + 1e-6)
    early = outcome.exits < arrivals.exits
    assert np.array_equal(answered & early, outcome.cut_short)
    assert np.array_equal(np.isnan(outcome.latency), ~answered)
    assert not np.any(answered & outcome.refused)
    # all rows of a request share its fate
    assert np.array_equal(answered, np.repeat(answered[arrivals.starts], arrivals.sizes))
    shares = outcome.refused_share + outcome.failed_share + np.mean(answered)
    assert shares == pytest.approx(1)


def test_without_time_for_the_next_stage_a_row_leaves_early() -> None:
    outcome = simulate(requests((0.0, [3])), COSTS, 1, bounds=Bounds(deadline=5.0))
    assert outcome.exits.tolist() == [2]
    assert outcome.latency.tolist() == [4.5]
    assert outcome.cut_short_share == 1


def test_a_request_fails_that_has_no_answer_when_its_deadline_is_there() -> None:
    sent = requests((0.0, [1]), (0.1, [1] * 10))
    outcome = simulate(sent, COSTS, 1, bounds=Bounds(deadline=10.0))
    assert outcome.exits.tolist() == [1] + [0] * 10
    assert outcome.failed_share == pytest.approx(10 / 11)
    assert outcome.refused_share == 0


def test_admission_learns_how_deep_rows_go() -> None:
    """All leave at the first exit; if each counted with its full depth, a tenth were refused."""
    arrivals = Load(1000, (1.0, 0.0, 0.0)).arrivals(3, 1)
    outcome = simulate(arrivals, COSTS, 1, bounds=Bounds(deadline=20))
    learnt = outcome.refused[arrivals.rows // 2 :]
    assert np.mean(learnt) < 0.05


def test_full_stages_beat_the_unsplit_model_by_what_rows_leave_out() -> None:
    """Saturated: rows per second are in proportion to the stage time that a row needs."""
    arrivals = Load(20_000, MIX).arrivals(2, 0)
    bounds = Bounds(max_queue_rows=2000)
    whole = CostModel((1, 8), [[sum(ALONE), sum(FULL)]], max_batch_rows=8)
    exits = simulate(arrivals, COSTS, 2, bounds=bounds)
    monolith = simulate(arrivals.without_exits(), whole, 2, "monolith", bounds)
    needed = float(np.array(MIX) @ np.cumsum(FULL)) / sum(FULL)
    assert exits.rows_per_second * needed == pytest.approx(monolith.rows_per_second, rel=0.05)
    assert exits.runs.fill(2) > 0.95


def test_compact_batches_shrink_from_stage_to_stage() -> None:
    arrivals = Load(20_000, MIX).arrivals(0.5, 0)
    bounds = Bounds(max_queue_rows=2000)
    compact = simulate(arrivals, COSTS, 1, "compact", bounds).runs
    refilled = simulate(arrivals, COSTS, 1, "rebatch", bounds).runs
    assert compact.fill(1) > 0.95
    assert compact.mean_rows(2) == pytest.approx(4, abs=0.5)
    assert refilled.mean_rows(2) > 7.5


def test_the_same_arrivals_give_the_same_outcome() -> None:
    arrivals = Load(800, MIX, (1, 4)).arrivals(1, 5)
    first, second = (simulate(arrivals, COSTS, 2).latency for _ in range(2))
    assert np.array_equal(first, second)


def test_progress_ends_with_all_rows() -> None:
    told: list[int] = []
    arrivals = Load(3000, (1.0,)).arrivals(1, 0)
    simulate(arrivals, ONE_BY_ONE, 4, progress=told.append)
    assert told[0] == 0
    assert told[-1] == arrivals.rows
    assert sorted(told) == told
    assert len(told) > 2


@pytest.mark.parametrize(
    ("bounds", "named"),
    [
        ({"max_queue_rows": 0}, "found 0 rows"),
        ({"max_wait": 0}, "0 ms"),
        ({"max_wait": np.nan}, "nan ms"),
        ({"deadline": -1}, "deadline: found -1 ms"),
        ({"deadline": np.nan}, "deadline: found nan ms"),
    ],
)
def test_bounds_let_something_through(bounds: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidInput, match=named):
        Bounds(**bounds)


def test_there_is_a_lane() -> None:
    with pytest.raises(InvalidInput, match="devices: found 0"):
        simulate(requests((0.0, [1])), COSTS, 0)


def test_there_is_room_for_every_request() -> None:
    with pytest.raises(InvalidInput, match="at least 3, the rows of the largest request"):
        simulate(requests((0.0, [1, 1, 1])), COSTS, 1, bounds=Bounds(max_queue_rows=2))


def test_rows_cannot_leave_behind_stages_that_have_no_costs() -> None:
    with pytest.raises(InvalidInput, match="stage 4, but the costs are of 3"):
        simulate(requests((0.0, [4])), COSTS, 1)
