from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.errors import InvalidInput
from service.costs import CostModel
from service.simulated_load import Load
from service.simulator import Bounds, simulate
from service.sizing import devices_needed, is_met, offered_lanes

COSTS = CostModel((1, 8), [[3.0, 8.0], [1.5, 4.0]], max_batch_rows=8)
MIX = (0.6, 0.4)


@settings(max_examples=30, deadline=None)
@given(
    rate=st.floats(50, 4000),
    slo=st.floats(5, 60),
    size=st.sampled_from([1, 5]),
    seed=st.integers(0, 1000),
)
def test_one_device_less_would_not_do(rate: float, slo: float, size: int, seed: int) -> None:
    arrivals = Load(rate, MIX, (size,)).arrivals(0.5, seed)
    sizing = devices_needed(arrivals, COSTS, slo)
    if sizing.devices is None:  # not even with a lane for every request
        assert not is_met(simulate(arrivals, COSTS, len(arrivals.times)), slo)
        return
    assert sizing.outcome is not None
    assert sizing.outcome.requests.p99 <= slo
    assert not sizing.outcome.refused.any()
    fewer = sizing.devices - 1
    if fewer > offered_lanes(arrivals, COSTS):
        assert not is_met(simulate(arrivals, COSTS, fewer), slo)


def test_twice_the_load_needs_about_twice_the_devices() -> None:
    needed = [
        devices_needed(Load(rate, MIX).arrivals(1, 0), COSTS, 20.0).devices or 0
        for rate in (4000, 8000)
    ]
    assert needed[0] >= 5
    assert needed[1] / needed[0] == pytest.approx(2, abs=0.35)


def test_offered_lanes_are_the_work_of_full_batches() -> None:
    arrivals = Load(1000, (0.0, 1.0)).arrivals(2, 0)
    per_row = (8.0 + 4.0) / 8
    assert offered_lanes(arrivals, COSTS) == pytest.approx(arrivals.rows * per_row / 2000)


def test_no_number_of_devices_beats_a_row_that_runs_alone() -> None:
    arrivals = Load(500, MIX).arrivals(1, 0)
    sizing = devices_needed(arrivals, COSTS, 4.0)
    assert sizing.devices is None
    assert sizing.least == 4.5


def test_deadlines_do_not_make_devices_enough() -> None:
    """Rows that are cut short are in time, and yet the load would need more devices."""
    arrivals = Load(4000, MIX).arrivals(1, 0)
    bounds = Bounds(deadline=25.0)
    sizing = devices_needed(arrivals, COSTS, 20.0, bounds=bounds)
    assert sizing.outcome is not None
    assert sizing.outcome.cut_short_share <= 0.01
    one = simulate(arrivals, COSTS, 1, bounds=bounds)
    assert not is_met(one, 1e6)
    assert devices_needed(arrivals, COSTS, 20.0, bounds=Bounds(deadline=4.0)).devices is None


def test_every_simulation_is_watched() -> None:
    watched: dict[int, list[int]] = {}
    arrivals = Load(4000, MIX).arrivals(0.5, 0)
    sizing = devices_needed(
        arrivals, COSTS, 8.0, watch=lambda lanes: watched.setdefault(lanes, []).append
    )
    assert sizing.devices in watched
    assert all(told[-1] == arrivals.rows for told in watched.values())


@pytest.mark.parametrize("slo", [0, -1, np.nan])
def test_an_objective_is_more_than_zero(slo: float) -> None:
    with pytest.raises(InvalidInput, match="slo: found"):
        devices_needed(Load(10, MIX).arrivals(1, 0), COSTS, slo)
