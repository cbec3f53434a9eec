"""What a request asks of the engine, and what the engine answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from models.encoding import Group
from models.runtime import Answers
from service.trace import Trace


class Priority(IntEnum):
    """Rows of a lower value go first."""

    INTERACTIVE = 1
    BATCH = 2
    SHADOW = 3


class Left(IntEnum):
    """Why a row left where it did."""

    POLICY = 0
    """Its score reached the threshold, or it came to its last exit."""
    DEADLINE = 1
    """No deeper answer could have been there in time."""
    OVERLOAD = 2
    """The service was overloaded and lets rows leave at the exit that they have reached."""


@dataclass(frozen=True)
class Job:
    """The rows of one request, admitted together or not at all.

    groups : by shape; together they hold every row of the request once
    thresholds : float32 (S,), the score from which a row leaves behind each stage: infinite where
        the exit is off, -infinite where every row leaves
    deadline : milliseconds on the engine's clock; infinite without one
    all_exits : keep the answers of every exit that is passed
    trace : written when it is there
    tags : the end of a line of the log, which says whose the rows are
    """

    groups: Sequence[Group]
    thresholds: np.ndarray
    priority: Priority = Priority.INTERACTIVE
    deadline: float = float("inf")
    all_exits: bool = False
    trace: Trace | None = None
    tags: str = ""

    @property
    def rows(self) -> int:
        """Number of rows."""
        return sum(len(group.rows) for group in self.groups)


@dataclass(frozen=True)
class Routed:
    """Rows answered, each at its own exit.

    rows : int (b,), their places in the request
    answers : over the b rows
    exits : int (b,), numbers of their exits
    left : int (b,), why each left there, see `Left`
    departed : float (b,), when each left, milliseconds on the engine's clock
    passed : the answers of the exits on their way, one per stage, where they were asked for
    """

    rows: np.ndarray
    answers: Answers
    exits: np.ndarray
    left: np.ndarray
    departed: np.ndarray
    passed: tuple[Answers, ...] = ()
