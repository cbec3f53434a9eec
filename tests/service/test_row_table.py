from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from service.row_table import NOWHERE, RowTable

ADDS = st.tuples(st.integers(0, 6), st.integers(0, 3), st.floats(0, 99) | st.just(np.inf))
REMOVALS = st.lists(st.integers(0, 20), max_size=6, unique=True)


def ids_of(rows: dict[int, tuple[int, float]]) -> np.ndarray:
    return np.array(list(rows), np.int64)


@settings(deadline=None)
@given(st.integers(1, 12), st.lists(ADDS | REMOVALS, max_size=40))
def test_rows_come_and_go_and_are_never_mistaken_for_others(
    capacity: int, steps: list[tuple[int, int, float] | list[int]]
) -> None:
    table = RowTable(capacity)
    here: dict[int, tuple[int, float]] = {}
    ever: list[int] = []
    for step in steps:
        if isinstance(step, list):
            gone = [ever[place] for place in step if place < len(ever) and ever[place] in here]
            table.remove(np.array(gone, np.int64))
            here = {name: row for name, row in here.items() if name not in gone}
        else:
            count, priority, deadline = step
            count = min(count, table.room)
            ids = table.add(count, priority, deadline)
            table.line[table.slots(ids)] = 7  # one of the rows before must leave no trace
            assert len(ids) == count
            assert not set(ids.tolist()) & set(ever)
            here |= dict.fromkeys(ids.tolist(), (priority, deadline))
            ever += ids.tolist()
        assert len(table) == len(here) == capacity - table.room
        present = table.present(np.array(ever, np.int64)).tolist()
        assert present == [name in here for name in ever]
        slots = table.slots(ids_of(here))
        assert len(set(slots.tolist())) == len(here)
        assert table.priority[slots].tolist() == [priority for priority, _ in here.values()]
        assert table.deadline[slots].tolist() == [deadline for _, deadline in here.values()]


@settings(deadline=None)
@given(st.integers(1, 12), st.integers(1, 12))
def test_a_new_row_waits_in_no_line_whoever_had_its_slot(capacity: int, count: int) -> None:
    table = RowTable(capacity)
    for _ in range(3):
        ids = table.add(min(count, capacity), 1, np.inf)
        assert (table.line[table.slots(ids)] == NOWHERE).all()
        table.line[table.slots(ids)] = 5
        table.remove(ids)


def test_slots_are_used_again_and_ids_are_not() -> None:
    table = RowTable(3)
    seen: set[int] = set()
    for _ in range(1000):
        ids = table.add(3, 1, np.inf)
        assert sorted(table.slots(ids).tolist()) == [0, 1, 2]
        assert not seen & set(ids.tolist())
        seen |= set(ids.tolist())
        table.remove(ids)
    assert len(seen) == 3000
