from __future__ import annotations

import tracemalloc
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.costs import CostModel, Shape

BASE: Shape = ((8,), (8,))


Curve = tuple[list[int], list[list[float]], int]
"""Measured batches, the times of some stages (noisy: not always ascending), the largest batch."""


def tokens(count: int) -> Shape:
    return ((count,), (count,))


@st.composite
def curves(draw: st.DrawFn) -> Curve:
    rows = sorted({1, *draw(st.lists(st.integers(2, 40), max_size=5))})
    stage = st.lists(st.floats(0.01, 100), min_size=len(rows), max_size=len(rows))
    return rows, draw(st.lists(stage, min_size=1, max_size=4)), draw(st.integers(1, 60))


def stages(costs: CostModel) -> range:
    return range(1, costs.stages + 1)


@settings(deadline=None)
@given(curves(), st.integers(1, 40))
def test_more_rows_never_take_less_time(curve: Curve, length: int) -> None:
    costs = CostModel(*curve, BASE)
    for stage in stages(costs):
        times = [costs.milliseconds(stage, tokens(length), n) for n in range(1, curve[2] + 1)]
        assert all(few <= more for few, more in pairwise(times))
        assert times[0] > 0


@settings(deadline=None)
@given(curves())
def test_what_was_measured_is_what_is_told(
    curve: Curve,
) -> None:
    rows, times, largest = curve
    costs = CostModel(rows, times, largest, BASE)
    for stage, measured in enumerate(times, 1):
        for count, milliseconds in zip(rows, np.maximum.accumulate(measured), strict=True):
            if count <= largest:
                assert costs.milliseconds(stage, BASE, count) == pytest.approx(milliseconds)


@settings(deadline=None)
@given(curves())
def test_between_measured_points_the_time_is_between_theirs(
    curve: Curve,
) -> None:
    rows, times, largest = curve
    costs = CostModel(rows, times, largest, BASE)
    for stage in stages(costs):
        for few, more in pairwise(rows):
            middle = (few + more) // 2
            if more <= largest:
                ends = [costs.milliseconds(stage, BASE, count) for count in (few, more)]
                share = (middle - few) / (more - few)
                expected = ends[0] + share * (ends[1] - ends[0])
                assert costs.milliseconds(stage, BASE, middle) == pytest.approx(expected)


@settings(deadline=None)
@given(curves())
def test_beyond_the_largest_measured_batch_a_row_costs_what_it_does_there(
    curve: Curve,
) -> None:
    rows, times, _ = curve
    costs = CostModel(rows, times, 3 * rows[-1], BASE)
    for stage in stages(costs):
        there = costs.milliseconds(stage, BASE, rows[-1]) / rows[-1]
        for count in range(rows[-1], 3 * rows[-1] + 1):
            assert costs.milliseconds(stage, BASE, count) == pytest.approx(there * count)


@settings(deadline=None)
@given(curves(), st.integers(1, 40))
def test_a_full_batch_is_the_smallest_within_three_per_cent_of_the_cheapest(
    curve: Curve, length: int
) -> None:
    costs, shape = CostModel(*curve, BASE), tokens(length)
    each = {
        n: sum(costs.milliseconds(stage, shape, n) for stage in stages(costs)) / n
        for n in range(1, curve[2] + 1)
    }
    least = min(each.values())
    for batch, slack in (
        (costs.full_batch(shape), 1.03),
        (costs.worthwhile_batch(shape), 1.5),
    ):
        assert each[batch] <= slack * least * (1 + 1e-9)
        assert all(each[fewer] > slack * least * (1 - 1e-9) for fewer in range(1, batch))


@settings(deadline=None)
@given(curves(), st.integers(2, 5))
def test_a_row_of_more_tokens_counts_as_more_rows(curve: Curve, times_longer: int) -> None:
    costs = CostModel(*curve, BASE)
    longer = tokens(8 * times_longer)
    for stage in stages(costs):
        for count in range(1, curve[2] // times_longer + 1):
            assert costs.milliseconds(stage, longer, count) == pytest.approx(
                costs.milliseconds(stage, BASE, count * times_longer)
            )


def test_the_input_that_grew_most_counts() -> None:
    costs = CostModel((1, 8), [[1.0, 8.0]], 8, ((8,), (4, 4)))
    assert costs.milliseconds(1, ((16,), (4, 4)), 1) == pytest.approx(2)
    assert costs.milliseconds(1, ((16,), (8, 8)), 1) == pytest.approx(4)
    assert costs.milliseconds(1, ((8,), (4, 4)), 1) == pytest.approx(1)


@settings(deadline=None)
@given(curves())
def test_what_remains_is_the_sum_of_the_stages_to_come(
    curve: Curve,
) -> None:
    costs = CostModel(*curve, BASE)
    runs = [
        (costs.milliseconds(k, BASE, costs.full_batch(BASE)), costs.full_batch(BASE))
        for k in stages(costs)
    ]
    for stage in stages(costs):
        assert costs.batch_time(stage, BASE) == pytest.approx(runs[stage - 1][0])
        each = [took / rows for took, rows in runs[stage - 1 :]]
        assert costs.remaining(stage, BASE) == pytest.approx(sum(each))
        assert costs.row_milliseconds(stage, BASE) == pytest.approx(each[0])


@settings(deadline=None)
@given(curves(), st.integers(-1, 80))
def test_a_limit_makes_batches_smaller_and_never_larger(curve: Curve, limit: int) -> None:
    costs, before = CostModel(*curve, BASE), CostModel(*curve, BASE)
    costs.full_batch(BASE)  # what is known already has to be forgotten
    costs.limit(limit)
    assert costs.max_batch_rows == max(1, min(limit, curve[2]))
    for stage in stages(costs):
        assert costs.full_batch(BASE) <= costs.max_batch_rows
        for count in range(1, costs.max_batch_rows + 1):
            took = costs.milliseconds(stage, BASE, count)
            assert took == before.milliseconds(stage, BASE, count)


def test_any_number_of_shapes_takes_bounded_memory() -> None:
    costs = CostModel((1,), [[1.0]], 1, ((1,),))
    tracemalloc.start()
    try:
        peaks = []
        for start in (1, 5000, 10_000):
            for length in range(start, start + 5000):
                costs.full_batch(((length,),))
            peaks.append(tracemalloc.get_traced_memory()[1])
    finally:
        tracemalloc.stop()
    assert peaks[-1] < 1.2 * peaks[0]
