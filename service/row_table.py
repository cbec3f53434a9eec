"""The rows in the system: what the scheduler knows of each, in columns.

A row's id names it and no other, ever; its slot, id modulo the capacity, is used again once the row
is gone. So an id that is kept somewhere after its row was given up does no harm.
"""

from __future__ import annotations

import numpy as np

NOWHERE = -1
"""In no line: a lane runs the row, or it waits to be answered."""


class RowTable:
    """At most `capacity` rows.

    priority : int8 (capacity,)
    deadline : float (capacity,), milliseconds on the clock; infinite without one
    line : int32 (capacity,), number of the line that the row waits in, or NOWHERE
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.priority = np.zeros(capacity, np.int8)
        self.deadline = np.full(capacity, np.inf)
        self.line = np.full(capacity, NOWHERE, np.int32)
        self._ids = np.full(capacity, -1, np.int64)
        self._next_ids = np.arange(capacity, dtype=np.int64)
        self._free = np.arange(capacity, dtype=np.int64)  # the first `room` are free slots
        self.room = capacity

    def __len__(self) -> int:
        return self.capacity - self.room

    def add(self, count: int, priority: int, deadline: float) -> np.ndarray:
        """Take in `count` rows (at most `room`): their ids, int64 (count,)."""
        slots = self._free[self.room - count : self.room]
        self.room -= count
        ids = self._next_ids[slots]
        self._ids[slots] = ids
        self._next_ids[slots] += self.capacity
        self.priority[slots] = priority
        self.deadline[slots] = deadline
        return ids

    def slots(self, ids: np.ndarray) -> np.ndarray:
        """Where the columns hold these rows."""
        return ids % self.capacity

    def present(self, ids: np.ndarray) -> np.ndarray:
        """Which rows are still in the system: int64 (b,) -> bool (b,)."""
        return np.asarray(self._ids[ids % self.capacity] == ids)

    def remove(self, ids: np.ndarray) -> None:
        """Let go of rows that are present."""
        slots = ids % self.capacity
        self._ids[slots] = -1
        self.line[slots] = NOWHERE
        self._free[self.room : self.room + len(slots)] = slots
        self.room += len(slots)
