"""The exit policy: which exits are on, and the score from which a row leaves there.

The one implementation, used by calibration on whole splits and by the service row by row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Policy:
    """A row leaves at the first exit that is on and whose threshold its score reaches.

    Rows that reach none leave at the last exit.

    thresholds : one per exit but the last; None where the exit is off

    Example: `Policy((0.9, None, 0.5))` has four exits, the second of them off.
    """

    thresholds: tuple[float | None, ...]

    @classmethod
    def full(cls, depth: int) -> Policy:
        """Every row runs through all `depth` stages."""
        return cls((None,) * (depth - 1))

    @classmethod
    def at_exit(cls, number: int, depth: int) -> Policy:
        """Every row leaves at exit `number`, whatever its score."""
        return cls(tuple(0.0 if k == number else None for k in range(1, depth)))

    @property
    def depth(self) -> int:
        """Number of exits K."""
        return len(self.thresholds) + 1

    def leaves(self, exit_number: int, score: np.ndarray) -> np.ndarray:
        """Which rows leave at this exit: float (b,) -> bool (b,)."""
        if exit_number == self.depth:
            return np.ones(len(score), bool)
        threshold = self.thresholds[exit_number - 1]
        if threshold is None:
            return np.zeros(len(score), bool)
        return np.asarray(score >= np.float32(threshold))

    def route(self, scores: Sequence[np.ndarray]) -> np.ndarray:
        """The exit of every row, by its scores at all exits: K x float (n,) -> int (n,) in 1..K."""
        exits = np.full(len(scores[0]), self.depth)
        for number in range(self.depth - 1, 0, -1):
            exits[self.leaves(number, scores[number - 1])] = number
        return exits
