from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.progress import Progress

from calibration.costs import (
    BATCH_ROWS,
    computed_time,
    measure_costs,
    time_until,
    without_exit,
    without_last_stage,
)
from models.bundle import Bundle
from models.measurements import Costs
from tests.measurements import costs as made_up_costs

depths = st.integers(2, 6)


def costs_of(depth: int) -> Costs:
    return made_up_costs(np.random.default_rng(depth), depth)


def total(costs: Costs) -> np.ndarray:
    return np.sum(costs.stage_milliseconds, axis=0)


def test_every_part_of_a_model_is_timed_at_every_batch(bundle: Bundle, progress: Progress) -> None:
    manifest = bundle.manifest
    row = np.zeros((1, *manifest.inputs[0].row_shape), np.float32)
    costs = measure_costs(bundle.model, manifest.carries, (row,), progress, rounds=1)
    assert costs.batch_rows == BATCH_ROWS
    for parts, expected in (
        (costs.stage_milliseconds, manifest.depth),
        (costs.exit_milliseconds, manifest.depth - 1),
        ((costs.whole_milliseconds,), 1),
    ):
        times = np.array(parts)
        assert times.shape == (expected, len(BATCH_ROWS))
        assert (times > 0).all()
    assert not any(costs.beyond_milliseconds)


@given(depth=depths, data=st.data())
def test_without_an_exit_all_are_left_but_its_head(depth: int, data: st.DataObject) -> None:
    costs, number = costs_of(depth), data.draw(st.integers(1, depth - 1))
    left = without_exit(costs, number)
    assert len(left.stage_milliseconds) == depth - 1
    assert len(left.exit_milliseconds) == depth - 2
    gone = costs.exit_milliseconds[number - 1]
    np.testing.assert_allclose(total(left), total(costs) - gone)
    assert left.exit_milliseconds == (
        *costs.exit_milliseconds[: number - 1],
        *costs.exit_milliseconds[number:],
    )
    kept = [k for k in range(depth) if k not in (number - 1, number)]
    assert [costs.stage_milliseconds[k] for k in kept] == [
        stage for k, stage in enumerate(left.stage_milliseconds) if k != number - 1
    ]


@given(depth=depths)
def test_a_last_stage_that_is_left_out_is_still_accounted_for(depth: int) -> None:
    costs = costs_of(depth)
    left = without_last_stage(costs)
    assert len(left.stage_milliseconds) == depth - 1
    assert len(left.exit_milliseconds) == depth - 2
    np.testing.assert_allclose(total(left) + left.beyond_milliseconds, total(costs))
    assert left.whole_milliseconds == costs.whole_milliseconds


@given(depth=depths, exits=st.lists(st.integers(1, 6), min_size=1), batch=st.integers(0, 5))
def test_computed_time_is_the_mean_over_rows_of_the_way_to_their_exit(
    depth: int, exits: list[int], batch: int
) -> None:
    costs = costs_of(depth)
    exits = [min(number, depth) for number in exits]
    ways = [
        sum(stage[batch] for stage in costs.stage_milliseconds[:number])
        / costs.whole_milliseconds[batch]
        for number in exits
    ]
    assert computed_time(np.array(exits), costs, batch) == pytest.approx(np.mean(ways))
    assert (np.diff(time_until(costs, batch)) > 0).all()
