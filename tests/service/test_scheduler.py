from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from service.costs import CostModel, Shape
from service.request import Priority
from service.scheduler import Mode, Scheduler
from tests.service.fake_lanes import EIGHT, FakeLanes, Request, flat_costs

SHAPES: list[Shape] = [EIGHT, ((16,),), ((3,),)]
PRIORITIES = list(Priority)
MEASURED = (1, 2, 4, 8)


@st.composite
def cost_models(draw: st.DrawFn) -> CostModel:
    """One to four stages: each has a fixed time of its own, and one per row."""
    stages = draw(st.integers(1, 4))
    per_run = draw(st.lists(st.floats(0, 5), min_size=stages, max_size=stages))
    per_row = draw(st.lists(st.floats(0.1, 2), min_size=stages, max_size=stages))
    times = [[a + b * rows for rows in MEASURED] for a, b in zip(per_run, per_row, strict=True)]
    return CostModel(MEASURED, times, draw(st.integers(1, 8)), EIGHT)


def one_group(
    rows: int,
    leaves: int,
    priority: Priority = Priority.INTERACTIVE,
    shape: Shape = EIGHT,
    time: float = np.inf,
) -> Request:
    """Rows that all leave at one exit."""
    return Request(((shape, (leaves,) * rows),), priority, time)


@dataclass(frozen=True)
class Event:
    """After `gap` milliseconds rows arrive, or every `cancel`-th row there ever was is given up."""

    gap: float
    request: Request | None
    cancel: int


def requests(stages: int) -> st.SearchStrategy[Request]:
    exits = st.lists(st.integers(1, stages), min_size=1, max_size=9).map(tuple)
    groups = st.lists(st.tuples(st.sampled_from(SHAPES), exits), min_size=1, max_size=2)
    times = st.just(np.inf) | st.floats(-1, 60)
    return st.builds(Request, groups.map(tuple), st.sampled_from(PRIORITIES), times)


@st.composite
def histories(draw: st.DrawFn) -> tuple[FakeLanes, list[Event]]:
    costs = draw(cost_models())
    modes: list[Mode] = ["rebatch", "compact"]
    lanes = FakeLanes(
        costs,
        draw(st.integers(1, 40)),
        draw(st.sampled_from(modes)),
        draw(st.integers(1, 3)),
        draw(st.booleans()),
    )
    gaps = st.just(0.0) | st.floats(0, 5)
    arrival = st.builds(Event, gaps, requests(costs.stages), st.just(1))
    cancelling = st.builds(Event, gaps, st.none(), st.integers(2, 7))
    events = st.lists(st.one_of(arrival, arrival, arrival, cancelling), min_size=1, max_size=30)
    return lanes, draw(events)


def play(lanes: FakeLanes, events: list[Event]) -> None:
    for event in events:
        lanes.advance(event.gap)
        if event.request is None:
            lanes.cancel(lanes.rows[:: event.cancel])
        else:
            lanes.enter(event.request)
    lanes.drain()


@settings(deadline=None, max_examples=300)
@given(histories())
def test_every_row_leaves_once_at_its_exit_with_its_own_carry(
    history: tuple[FakeLanes, list[Event]],
) -> None:
    """And all that `FakeLanes` looks at on the way: it sees every batch and every line."""
    lanes, events = history
    play(lanes, events)
    assert not lanes.live
    assert lanes.scheduler.rows.room == lanes.scheduler.rows.capacity
    assert not lanes.scheduler.lines()
    for row in lanes.rows:
        ran = [run.stage for run in lanes.runs if row in run.rows]
        assert row.ending is not None
        if row.ending == "left":
            assert ran == list(range(1, row.exit + 1))
        elif row.ending == "late":
            assert ran == list(range(1, row.stage))
            assert row.deadline < np.inf
        else:
            assert ran in ([*range(1, row.stage)], [*range(1, row.stage + 1)])


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 3), st.integers(1, 12), st.integers(1, 4), st.integers(1, 3))
def test_a_system_that_was_full_takes_as_many_rows_again(
    stages: int, capacity: int, full: int, lanes: int
) -> None:
    driver = FakeLanes(flat_costs(stages, full), capacity, lanes=lanes)
    for turn in range(4):
        request = one_group(capacity, stages)
        assert len(driver.enter(request)) == capacity
        assert not driver.enter(one_group(1, stages)), "it is full"
        if turn % 2:
            driver.cancel(driver.rows)
        driver.drain()
        assert not driver.live


PRIORITY_LISTS = st.lists(st.sampled_from(PRIORITIES), min_size=1, max_size=20)


@settings(deadline=None)
@given(PRIORITY_LISTS, st.integers(1, 3), st.integers(1, 3), st.integers(1, 4))
def test_interactive_rows_go_before_batch_rows_before_shadow_rows(
    priorities: list[Priority], stages: int, exit_number: int, full: int
) -> None:
    """At every stage, while no row has waited longer than its patience."""
    lanes = FakeLanes(flat_costs(stages, full), len(priorities) + 1)
    lanes.enter(one_group(1, 1))  # the lane is busy while the others come
    for priority in priorities:
        lanes.enter(one_group(1, min(exit_number, stages), priority))
    # what the rows cost one by one is less than the patience
    assume(sum(row.exit for row in lanes.rows) < 20 * stages)
    lanes.drain()
    left = [row.priority for run in lanes.runs[1:] for row in run.rows if run.stage == row.exit]
    assert left == sorted(priorities)


@settings(deadline=None)
@given(
    st.integers(2, 4),
    st.integers(1, 3),
    st.integers(2, 8),
    st.integers(1, 200),
    st.floats(0, 150),
)
def test_a_new_row_waits_for_one_deep_batch_per_lane_however_many_hard_rows_there_are(
    stages: int, lanes: int, full: int, hard: int, later: float
) -> None:
    """One at most goes before it, where no hard row has lost its patience; two more otherwise."""
    driver = FakeLanes(flat_costs(stages, full), hard + 1, lanes=lanes, careful=False)
    driver.enter(one_group(hard, stages))
    driver.advance(later)
    assume(all(line.stage > 1 for line in driver.scheduler.lines()))
    before, now = len(driver.runs), driver.now
    (easy,) = driver.enter(one_group(1, 1))
    while easy.ending is None:
        driver.step()
    (place,) = [i for i, run in enumerate(driver.runs[before:]) if easy in run.rows]
    assert place <= (1 if now < 20 * stages else 3)


def flood_priorities() -> st.SearchStrategy[tuple[Priority, Priority]]:
    """Of the flood, and of the row that it must not drown."""
    return st.tuples(
        st.sampled_from(PRIORITIES), st.sampled_from([Priority.INTERACTIVE, Priority.BATCH])
    )


@settings(deadline=None, max_examples=60)
@given(
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(2, 6),
    flood_priorities(),
    st.lists(st.tuples(st.sampled_from(SHAPES), st.integers(1, 3)), min_size=1, max_size=4),
    st.sampled_from(SHAPES),
    st.sampled_from([np.inf, 4.0]),
)
def test_no_row_starves_in_an_endless_flood_of_others(
    stages: int,
    lanes: int,
    full: int,
    priorities: tuple[Priority, Priority],
    flood: list[tuple[Shape, int]],
    shape: Shape,
    time: float,
) -> None:
    """Every stage is reached in time, by the rule and a run of 1 ms.

    A row waits until its patience is over, 20 S or, with more lines, 20 times as many, or until
    its turn comes. Then every second batch at least goes to lines that have waited longer, or the
    entrance gets one batch of S of every second: at most 2 S batches for each of the batches that
    stand before it. Those are at most as many as the rows in the system fill, and one more for
    each line.
    """
    driver = FakeLanes(flat_costs(stages, full), 6 * full, lanes=lanes, careful=False)
    before = [one_group(1, min(leaves, stages), priorities[0], of, time) for of, leaves in flood]
    for request in before * (3 * full // len(before)):
        driver.enter(request)
    (row,) = driver.enter(one_group(1, stages, priorities[1], shape))
    lines = 2 * stages * len(SHAPES)
    batches = 6 * 2 + lines  # half a full batch where rows are twice as long
    bound = stages * (20 * max(stages, lines) + 2 * stages * batches)
    while row.ending is None:
        assert driver.now <= bound
        for request in before:
            if sum(line.rows for line in driver.scheduler.lines() if line.stage == 1) < 3 * full:
                driver.enter(request)
        driver.step()
    assert row.ending == "left"


def test_a_row_of_a_lower_priority_goes_when_its_patience_is_over() -> None:
    driver = FakeLanes(flat_costs(2, 4), 64)
    driver.enter(one_group(8, 1))
    (row,) = driver.enter(one_group(1, 1, Priority.BATCH))
    while row.ending is None:
        assert driver.now < 50
        driver.enter(one_group(4, 1))
        driver.step()
    assert 20 * 2 < row.ended <= 20 * 2 + 2


@settings(deadline=None)
@given(st.integers(1, 60), st.integers(1, 8), st.integers(1, 3), st.floats(2, 200))
def test_a_row_that_its_line_would_make_late_goes_first(
    ahead: int, full: int, lanes: int, time: float
) -> None:
    """And only such a row: one with time to wait does not overtake."""
    driver = FakeLanes(flat_costs(1, full), ahead + full * lanes + 1, lanes=lanes)
    driver.enter(one_group(full * lanes, 1))
    others = [row for _ in range(ahead) for row in driver.enter(one_group(1, 1))]
    work = driver.scheduler.wait(Priority.INTERACTIVE)
    (row,) = driver.enter(one_group(1, 1, time=time))
    driver.drain()
    assert row.ending == "left"
    first = min(driver.runs[lanes:], key=lambda run: run.start)
    if time < work + 2:
        assert row in first.rows
    else:
        assert row in driver.runs[-1].rows
        assert all(other.ended <= row.ended for other in others)


@settings(deadline=None)
@given(st.integers(1, 8), st.integers(2, 40), st.integers(1, 5))
def test_a_small_request_waits_for_one_batch_of_each_large_one(
    full: int, batches: int, large: int
) -> None:
    driver = FakeLanes(flat_costs(1, full), full * batches * large + 1)
    for _ in range(large):
        driver.enter(one_group(full * batches, 1))
    (row,) = driver.enter(one_group(1, 1))
    driver.drain()
    assert row.ended <= large + 2  # the first has begun before the others came


def test_a_row_that_is_in_time_again_goes_back_among_its_like() -> None:
    driver = FakeLanes(flat_costs(2, 4), 64)
    driver.enter(one_group(4, 1))
    others = driver.enter(one_group(16, 2))
    (row,) = driver.enter(one_group(1, 2, Priority.BATCH, time=5.0))
    driver.cancel(others)  # they made it urgent
    driver.advance(1.5)
    driver.enter(one_group(1, 1))
    driver.drain()
    assert [run.rows == [row] for run in driver.runs] == [False, True, False, True]
    assert row.ending == "left"


DEADLINES = st.lists(st.floats(20, 23) | st.just(np.inf), min_size=1, max_size=7)


@settings(deadline=None)
@given(DEADLINES, st.floats(16, 24))
def test_when_not_all_can_be_in_time_those_with_the_nearest_deadlines_run(
    deadlines: list[float], now: float
) -> None:
    costs = CostModel((1, 8), [[1.0, 4.5]], 8, EIGHT)
    scheduler = Scheduler(costs, 8)
    of = {}
    for deadline in deadlines:
        (ids,) = scheduler.enter([(EIGHT, 1, None)], Priority.INTERACTIVE, deadline, 0.0)
        of[int(ids[0])] = deadline
    batch = scheduler.pick(now)
    assert batch is not None
    ran = sorted(of[name] for name in batch.ids.tolist())
    late = [of[name] for name in batch.late.tolist()]
    wait = set(of) - set(batch.ids.tolist()) - set(batch.late.tolist())
    assert sum(line.rows for line in scheduler.lines()) == len(wait)
    assert sorted([*late, *ran, *(of[name] for name in wait)]) == sorted(deadlines)
    if wait:
        assert all(of[name] >= ran[-1] for name in wait)
        assert costs.milliseconds(1, EIGHT, len(ran) + 1) > ran[0] - now, "there was time for more"


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from(PRIORITIES), st.integers(1, 9)), max_size=8))
def test_the_wait_is_the_work_that_goes_first_shared_by_the_lanes(
    groups: list[tuple[Priority, int]],
) -> None:
    costs, lanes = CostModel((1, 8), [[2.0, 5.0], [1.0, 4.0]], 8, EIGHT), 3
    scheduler = Scheduler(costs, 80, lanes)
    for priority, rows in groups:
        scheduler.enter([(EIGHT, rows, None)], priority, np.inf, 0.0)
    for priority in PRIORITIES:
        rows = sum(count for before, count in groups if before <= priority)
        work = rows * costs.remaining(1, EIGHT)
        assert scheduler.wait(priority) == pytest.approx(work / lanes)
        assert scheduler.wait(priority, stages=0) == 0


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 3), st.integers(1, 8), st.integers(1, 8), st.integers(1, 40))
def test_no_batch_is_larger_than_a_limit_that_comes_while_rows_wait(
    stages: int, full: int, limit: int, rows: int
) -> None:
    driver = FakeLanes(flat_costs(stages, full), rows)
    driver.enter(one_group(rows, stages))
    before = len(driver.runs)
    driver.scheduler.limit_batch(limit)
    driver.drain()
    assert all(len(run.rows) <= limit for run in driver.runs[before:])
    assert all(row.ending == "left" for row in driver.rows)


@settings(deadline=None, max_examples=25)
@given(
    st.integers(2, 6),
    st.integers(1, 3),
    st.lists(st.floats(0, 1), min_size=6, max_size=6),
    st.integers(0, 2**32 - 1),
)
def test_under_saturation_almost_all_batches_are_full(
    stages: int, lanes: int, mix: list[float], seed: int
) -> None:
    """While full batches wait at the entrance, a line runs a partial batch once in its patience.

    So at most (S - 1) of 20 S milliseconds a lane is not full, in runs of 1 ms: one in 20; and none
    are where enough rows go all the way.
    """
    full = 8
    driver = FakeLanes(flat_costs(stages, full), 100 * full, lanes=lanes, careful=False)
    rng, shares = np.random.default_rng(seed), np.array(mix[:stages]) + 1e-3
    while len(driver.runs) < 300:
        entrance = sum(line.rows for line in driver.scheduler.lines() if line.stage == 1)
        for _ in range(-(-(2 * full * lanes - entrance) // full)):
            exits = rng.choice(stages, full, p=shares / shares.sum()) + 1
            driver.enter(Request(((EIGHT, tuple(exits.tolist())),)))
        driver.step()
    runs = driver.runs[lanes:]  # the first rows found the lanes idle
    partial = [run for run in runs if len(run.rows) < full]
    assert all(run.stage > 1 for run in partial)
    assert len(partial) <= (stages - 1) * (1 + driver.now / (20 * stages))
    if shares[-1] > 0.1 * shares.sum():
        ideal = sum(len(run.rows) for run in runs) / full
        assert len(partial) <= 0.03 * len(runs)
        assert sum(run.milliseconds for run in runs) <= 1.03 * ideal


def test_shadow_rows_wait_where_they_may_not_run() -> None:
    scheduler = Scheduler(CostModel((1, 8), [[1.0, 2.0]], 8, EIGHT), capacity=64)

    def enter(rows: int, priority: Priority) -> None:
        scheduler.enter([(EIGHT, rows, None)], priority, np.inf, now=0.0)

    enter(3, Priority.SHADOW)
    assert scheduler.pick(1.0, shadows=False) is None
    enter(1, Priority.BATCH)
    batch = scheduler.pick(2.0, shadows=False)
    assert batch is not None
    assert batch.priority == Priority.BATCH
    batch = scheduler.pick(3.0)
    assert batch is not None
    assert (batch.priority, len(batch.ids)) == (Priority.SHADOW, 2)
