from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from service.costs import Shape
from service.line import Block, Line
from service.request import Priority
from service.rule import URGENT, Rule
from tests.service.fake_lanes import EIGHT, flat_costs

STAGES, FULL = 4, 8
COSTS = flat_costs(STAGES, FULL)
PATIENCE = Line(0, 1, 1, EIGHT, COSTS).patience
SHAPES: list[Shape] = [EIGHT, ((4,),)]


def waiting(
    stage: int, rows: int = 1, priority: int = 1, since: float = 0.0, shape: Shape = EIGHT
) -> Line:
    line = Line(0, priority, stage, shape, COSTS)
    line.append(Block(np.arange(rows), None, np.arange(rows), True, since))
    return line


LINES = st.lists(
    st.builds(
        waiting,
        st.integers(1, STAGES),
        st.sampled_from([1, FULL - 1, FULL, 3 * FULL]),
        st.integers(URGENT, Priority.SHADOW),
        st.floats(0, 2 * PATIENCE),
        st.sampled_from(SHAPES),
    ),
    max_size=8,
)


def may_be_overdue(line: Line, top: int) -> bool:
    passed_over = line.priority > top or (line.stage > 1 and line.rows < FULL)
    return passed_over and line.priority != Priority.SHADOW


@settings(deadline=None)
@given(LINES, st.integers(1, 30))
def test_some_line_is_served_whenever_rows_wait(lines: list[Line], choices: int) -> None:
    rule = Rule(STAGES)
    for _ in range(choices):
        chosen = rule.choose(lines, 2 * PATIENCE)
        assert (chosen in lines) if lines else chosen is None


@settings(deadline=None)
@given(LINES, st.integers(2, 30))
def test_patient_lines_of_the_first_priority_are_served(lines: list[Line], choices: int) -> None:
    rule = Rule(STAGES)
    for _ in range(choices):
        chosen = rule.choose(lines, 0.0)
        assert chosen is None or chosen.priority == min(line.priority for line in lines)


@settings(deadline=None)
@given(LINES, st.integers(2, 30))
def test_overdue_lines_go_first_but_only_every_second_time(lines: list[Line], choices: int) -> None:
    rule, now = Rule(STAGES), 2 * PATIENCE
    top = min((line.priority for line in lines), default=0)
    passed_over = [line for line in lines if may_be_overdue(line, top)]
    factor = max(1, len(passed_over) / STAGES)  # many lines that are served apart cost more
    overdue = [line for line in passed_over if now - line.since > factor * line.patience]
    assume(len(lines) > 1)
    assume(overdue)
    for turn in range(choices):
        chosen = rule.choose(lines, now)
        assert chosen is not None
        if turn % 2 == 0:
            assert chosen.since == min(line.since for line in overdue)
            assert chosen in overdue
        else:
            assert chosen.priority == top


@settings(deadline=None)
@given(st.integers(1, STAGES), st.integers(1, 3 * FULL), st.booleans())
def test_a_line_that_was_passed_over_goes_first_when_its_patience_is_over(
    stage: int, rows: int, first: bool
) -> None:
    now = PATIENCE + 50.0
    batch = waiting(stage, rows, Priority.BATCH, since=50.0)
    flood = waiting(1, 3 * FULL, Priority.INTERACTIVE, since=0.0 if first else now)
    assert Rule(STAGES).choose([batch, flood], now) is flood
    assert Rule(STAGES).choose([batch, flood], now + 1e-3) is batch


@settings(deadline=None)
@given(st.integers(1, 3), st.booleans(), st.booleans())
def test_shadow_rows_wait_for_all_others_however_long(stage: int, urgent: bool, full: bool) -> None:
    rule = Rule(STAGES)
    shadow = waiting(stage, 5 * FULL, Priority.SHADOW, since=0.0)
    other = waiting(1, FULL if full else 1, URGENT if urgent else Priority.BATCH, since=999.0)
    for _ in range(6):
        assert rule.choose([shadow, other], 1000 * PATIENCE) is other
    assert rule.choose([shadow], 0.0) is shadow


@settings(deadline=None)
@given(st.integers(2, STAGES), st.integers(1, 5 * FULL), st.integers(0, 5))
def test_new_rows_and_hard_rows_take_turns(stage: int, hard: int, turns_before: int) -> None:
    """Without a full batch at the entrance: one deep batch before a new row, for any number."""
    rule = Rule(STAGES)
    deep = [waiting(stage, hard), waiting(2, 5 * FULL)]
    for _ in range(turns_before):
        rule.choose(deep, 0.0)
    entrance = waiting(1, FULL - 1)
    chosen = [rule.choose([*deep, entrance], 0.0) for _ in range(10)]
    assert all((one is entrance) != (other is entrance) for one, other in pairwise(chosen))


@settings(deadline=None)
@given(st.permutations(range(2, STAGES + 1)), st.integers(FULL, 9 * FULL))
def test_with_full_batches_everywhere_every_stage_gets_one_turn_of_s(
    stages: list[int], rows: int
) -> None:
    rule = Rule(STAGES)
    lines = [waiting(1, rows), *(waiting(stage, rows) for stage in stages)]
    chosen = [rule.choose(lines, 0.0) for _ in range(5 * STAGES)]
    entered = [turn for turn, line in enumerate(chosen) if line is lines[0]]
    assert [later - earlier for earlier, later in pairwise(entered)] == [STAGES] * 4


@settings(deadline=None)
@given(st.lists(st.integers(2, STAGES), min_size=1, max_size=4), st.integers(1, FULL - 1))
def test_partial_deep_batches_do_not_go_before_full_new_ones(stages: list[int], rows: int) -> None:
    rule = Rule(STAGES)
    entrance = waiting(1, FULL, since=5.0)
    deep = [waiting(stage, rows, since=PATIENCE / 2) for stage in stages]
    for _ in range(10):
        assert rule.choose([*deep, entrance], PATIENCE) is entrance


@settings(deadline=None)
@given(LINES, st.floats(0, PATIENCE))
def test_among_deep_lines_the_deepest_full_one_else_the_longest_waiting(
    lines: list[Line], now: float
) -> None:
    deep = [line for line in lines if line.stage > 1]
    top = min((line.priority for line in deep), default=0)
    served = [line for line in deep if line.priority == top]
    rule = Rule(STAGES)
    assume(deep)  # none is overdue: it has waited for its patience at most
    chosen = rule.choose(deep, now)
    assert chosen in served
    full = [line for line in served if line.is_full]
    deepest = [line for line in full if line.stage == max(line.stage for line in full)]
    assert chosen.since == min(line.since for line in deepest or served)
    assert chosen in (deepest or served)


@settings(deadline=None)
@given(st.lists(st.floats(0, 100), min_size=2, max_size=6))
def test_at_the_entrance_the_row_that_came_first_goes_first(times: list[float]) -> None:
    lines = [waiting(1, 1, since=since, shape=SHAPES[0]) for since in times]
    chosen = Rule(STAGES).choose(lines, 100.0)
    assert chosen is not None
    assert chosen.since == min(times)
