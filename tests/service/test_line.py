from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.runtime import join_pieces
from service.costs import CostModel
from service.line import MOST_LINES, PATIENCE, Block, Line, Lines
from service.request import Priority
from tests.service.fake_lanes import EIGHT, flat_costs


def block(ids: list[int], since: float = 0.0) -> Block:
    """Rows whose carry says who they are; it holds others too."""
    carry = (np.array([-1, *ids]),)
    return Block(np.array(ids, np.int64), carry, np.arange(1, len(ids) + 1), False, since)


def carried(blocks: list[Block]) -> list[int]:
    if not blocks:
        return []
    (numbers,) = join_pieces([block.piece for block in blocks])
    rows: list[int] = numbers.tolist()
    return rows


@dataclass
class Model:
    """A line as lists of (id, since), one per block, with the rows that were given up beside it."""

    line: Line
    blocks: list[list[tuple[int, float]]] = field(default_factory=list)
    unwanted: set[int] = field(default_factory=set)
    came: int = 0

    @property
    def waiting(self) -> list[tuple[int, float]]:
        return [row for rows in self.blocks for row in rows if row[0] not in self.unwanted]

    def join(self, rows: int, now: float) -> None:
        ids = list(range(self.came, self.came + rows))
        self.came += rows
        self.line.append(block(ids, now))
        self.blocks.append([(name, now) for name in ids])

    def give_up(self, places: list[int]) -> None:
        gone = {self.waiting[place][0] for place in places if place < len(self.waiting)}
        self.unwanted |= gone
        self.line.give_up(len(gone), self.wanted)

    def wanted(self, ids: np.ndarray) -> np.ndarray:
        return ~np.isin(ids, list(self.unwanted))

    def take(self, count: int, back: bool) -> None:
        taken = self.line.take(count, self.wanted)
        expected: list[int] = []
        while len(expected) < count and self.blocks:
            left = count - len(expected)
            rows = self.blocks.pop(0)
            if len(rows) > left:  # a block that fills a whole batch lets the others go first
                self.blocks.insert(len(self.blocks) if left == count else 0, rows[left:])
            expected += [name for name, _ in rows[:left] if name not in self.unwanted]
        ids = [name for one in taken for name in one.ids.tolist()]
        assert ids == expected
        assert carried(taken) == ids
        if back:
            for one in reversed(taken):
                self.line.put_back(one)
            self.blocks = [
                *([(name, one.since) for name in one.ids.tolist()] for one in taken),
                *self.blocks,
            ]


STEPS = st.one_of(
    st.tuples(st.just("join"), st.integers(1, 7)),
    st.tuples(st.just("give up"), st.lists(st.integers(0, 15), max_size=8)),
    st.tuples(st.just("take"), st.integers(1, 9)),
    st.tuples(st.just("put back"), st.integers(1, 9)),
)


@settings(deadline=None)
@given(st.lists(STEPS, max_size=30))
def test_blocks_are_served_in_turn_and_their_rows_in_order(steps: list[tuple[str, object]]) -> None:
    model = Model(Line(1, 1, 1, EIGHT, flat_costs(2, 4)))
    for now, (step, value) in enumerate(steps):
        if step == "join":
            assert isinstance(value, int)
            model.join(value, float(now))
        elif step == "give up":
            assert isinstance(value, list)
            model.give_up(value)
        else:
            assert isinstance(value, int)
            model.take(value, back=step == "put back")
        line = model.line
        live = [since for _, since in model.waiting]
        assert line.rows == len(live)
        assert line.is_full == (len(live) >= 4)
        assert line.since == next(iter(live), np.inf)


def test_a_full_batch_of_shadow_rows_is_small() -> None:
    costs = CostModel((1, 4, 8), [[1.0, 1.0, 1.0]], 8)
    assert Line(1, Priority.SHADOW, 1, (), costs).full_batch == 2
    tiny = CostModel((1, 2), [[1.0, 1.0]], 2)
    assert Line(1, Priority.SHADOW, 1, (), tiny).full_batch == 1


def test_a_line_knows_its_full_batch_and_what_its_rows_still_need() -> None:
    costs = CostModel((1, 4, 8), [[1.0, 1.0, 2.0], [3.0, 3.0, 3.0]], 8)
    entrance, deep = (Line(stage, 1, stage, (), costs) for stage in (1, 2))
    assert (entrance.full_batch, deep.full_batch) == (8, 8)
    assert (entrance.batch_time, deep.batch_time) == (2.0, 3.0)
    assert (entrance.follow_up, deep.follow_up) == (3.0, 0.0)
    assert entrance.remaining == pytest.approx(2 / 8 + 3 / 8)
    assert deep.remaining == pytest.approx(3 / 8)
    assert entrance.patience == deep.patience == pytest.approx(PATIENCE * (2 + 3))


def test_a_whole_carry_is_not_gathered_and_a_part_of_it_is() -> None:
    carry = (np.arange(3),)
    rows = Block(np.array([5, 6, 7]), carry, np.arange(3), True, 2.0)
    assert rows.piece == (carry, None)
    for part in (rows.part(slice(1, 3)), rows.part(np.array([False, True, True]))):
        assert part.ids.tolist() == [6, 7]
        assert part.piece[1] is not None
        assert part.piece[1].tolist() == [1, 2]
        assert part.since == 2.0


def test_one_line_for_one_priority_stage_and_shape() -> None:
    lines = Lines(flat_costs(3, 4))
    keys = [(p, k, shape) for p in (1, 2) for k in (1, 2) for shape in (((8,),), ((4,),))]
    found = [lines.find(*key) for key in keys]
    assert len({line.number for line in found}) == len(keys)
    assert [(line.priority, line.stage, line.shape) for line in found] == keys
    assert [lines.find(*key) for key in keys] == found
    assert all(lines.numbered[line.number] is line for line in found)


def test_idle_lines_are_forgotten_and_lines_with_rows_are_not() -> None:
    lines = Lines(flat_costs(1, 4))
    kept = lines.find(1, 1, ((1,),))
    kept.append(block([1, 2]))
    lines.busy[kept.number] = kept
    numbers = set()
    for length in range(2, 3 * MOST_LINES):
        numbers.add(lines.find(1, 1, ((length,),)).number)
        assert len(lines.numbered) <= MOST_LINES
    assert len(numbers) == 3 * MOST_LINES - 2
    assert lines.find(1, 1, ((1,),)) is lines.numbered[kept.number] is kept


def test_a_served_line_is_busy_while_rows_wait_in_it() -> None:
    lines = Lines(flat_costs(1, 4))
    line = lines.find(1, 1, EIGHT)
    line.append(block([1, 2]))
    lines.busy[line.number] = line
    line.give_up(1, lambda ids: ids != 1)
    lines.served(line)
    assert list(lines.busy.values()) == [line]
    line.give_up(1, lambda ids: ids < 0)
    lines.served(line)
    assert not lines.busy


def test_lines_follow_a_smaller_limit() -> None:
    costs = flat_costs(1, 8)
    lines = Lines(costs)
    line = lines.find(1, 1, EIGHT)
    line.append(block([1, 2, 3]))
    assert not line.is_full
    costs.limit(3)
    lines.refresh()
    assert (line.full_batch, line.is_full) == (3, True)
