"""What one model has answered since it was loaded, for its statistics and the page."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter_ns

import numpy as np

from service.prediction import Prediction

RECENT = 1024
"""Requests whose times are kept for percentiles."""


@dataclass
class Timed:
    """How often something was done, and how long it took altogether."""

    count: int = 0
    nanoseconds: int = 0

    def add(self, nanoseconds: int) -> None:
        """Once more."""
        self.count += 1
        self.nanoseconds += nanoseconds


class Statistics:
    """Counts requests and rows; only the event loop writes to it.

    success, failure : requests, from arrival to answer
    encoding : requests, from raw rows to the model's tensors
    engine : requests, from the queue to the last answer
    rows : that were answered
    exits : int (K,), of them by exit
    last_request : milliseconds since the epoch; 0 before the first
    """

    def __init__(self, exits: int) -> None:
        self.success = Timed()
        self.failure = Timed()
        self.encoding = Timed()
        self.engine = Timed()
        self.rows = 0
        self.exits = np.zeros(exits, np.int64)
        self.last_request = 0
        self._recent: deque[float] = deque(maxlen=RECENT)

    @contextmanager
    def request(self) -> Iterator[None]:
        """Count what happens in here as one request."""
        start = perf_counter_ns()
        try:
            yield
        except BaseException:
            self.failure.add(perf_counter_ns() - start)
            raise
        spent = perf_counter_ns() - start
        self.success.add(spent)
        self._recent.append(spent / 1e6)
        self.last_request = int(time.time() * 1000)

    def answered(self, prediction: Prediction) -> None:
        """Count the rows of a prediction."""
        exits = prediction.routed.exits
        self.rows += len(exits)
        self.exits += np.bincount(exits - 1, minlength=len(self.exits))

    def percentiles(self, *shares: float) -> list[float] | None:
        """Milliseconds that this share of the recent requests took at most; None without any."""
        if not self._recent:
            return None
        return [float(value) for value in np.percentile(self._recent, shares)]


@contextmanager
def timed(what: Timed) -> Iterator[None]:
    """Add the time spent in here, unless it fails."""
    start = perf_counter_ns()
    yield
    what.add(perf_counter_ns() - start)
