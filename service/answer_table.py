"""The deepest answer of every row in the system, in columns by the row's slot."""

from __future__ import annotations

import numpy as np

from models.runtime import Answers

NONE = 0
"""In `exits`: the row has no answer yet."""


class AnswerTable:
    """Columns over `capacity` slots; see `service.row_table` for slots.

    exits : int16 (capacity,), number of the exit that gave the answer; 0 for none yet
    left : int8 (capacity,), why the row left, see `service.request.Left`; -1 while on its way
    arrival : float (capacity,), milliseconds on the clock
    departed : float (capacity,), likewise, of rows that have left
    owner : int64 (capacity,), number of the request that the row is part of
    place : int64 (capacity,), of the row in its request
    """

    def __init__(self, capacity: int, stages: int, labels: int) -> None:
        self.exits = np.zeros(capacity, np.int16)
        self.left = np.full(capacity, -1, np.int8)
        self._thresholds = np.zeros((capacity, stages), np.float32)
        self._flat_thresholds = self._thresholds.reshape(-1)
        self._stages = stages
        self.arrival = np.zeros(capacity)
        self.departed = np.zeros(capacity)
        self.owner = np.zeros(capacity, np.int64)
        self.place = np.zeros(capacity, np.int64)
        self._probabilities = np.zeros((capacity, labels), np.float32)
        self._labels = np.zeros((capacity, labels), bool)
        self._score = np.zeros(capacity, np.float32)

    def open(self, slots: np.ndarray, thresholds: np.ndarray, arrival: float, owner: int) -> None:
        """Rows without an answer, one slot per place in their request."""
        self.exits[slots] = NONE
        self.left[slots] = -1
        # of the same shape: NumPy lets go of the interpreter to broadcast, and a lane takes it
        self._thresholds[slots] = np.repeat(thresholds[None], len(slots), axis=0)
        self.arrival[slots] = arrival
        self.owner[slots] = owner
        self.place[slots] = np.arange(len(slots))

    def thresholds(self, stage: int, slots: np.ndarray) -> np.ndarray:
        """The score from which each row leaves behind this stage: float32 (b,)."""
        return np.asarray(self._flat_thresholds[slots * self._stages + (stage - 1)])

    def record(self, slots: np.ndarray, exit_number: int, answers: Answers) -> None:
        """What an exit says of these rows."""
        self.exits[slots] = exit_number
        self._probabilities[slots] = answers.probabilities
        self._labels[slots] = answers.labels
        self._score[slots] = answers.score

    def answers(self, slots: np.ndarray) -> Answers:
        """The deepest answers of these rows."""
        return Answers(self._probabilities[slots], self._labels[slots], self._score[slots])
