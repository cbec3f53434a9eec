"""The outcome of a simulation: when each row was answered, and what the lanes did."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from service.simulated_load import Arrivals


@dataclass(frozen=True)
class Percentiles:
    """Of latencies in milliseconds; NaN where nothing was answered."""

    p50: float
    p95: float
    p99: float

    @classmethod
    def of(cls, latency: np.ndarray) -> Percentiles:
        """Of the answered ones: float (m,), NaN for those that were not."""
        answered = latency[~np.isnan(latency)]
        if not len(answered):
            return cls(np.nan, np.nan, np.nan)
        return cls(*np.percentile(answered, [50, 95, 99]).tolist())


@dataclass(frozen=True)
class Runs:
    """What the lanes ran: one entry per batch.

    stage : int (b,)
    rows : int (b,)
    full : int (b,), rows of a full batch
    milliseconds : float (b,)
    """

    stage: np.ndarray
    rows: np.ndarray
    full: np.ndarray
    milliseconds: np.ndarray

    def mean_rows(self, stage: int) -> float:
        """Rows of a batch of the stage, in the mean; NaN where none ran."""
        return _mean(self.rows[self.stage == stage])

    def fill(self, stage: int) -> float:
        """Rows of a batch of the stage as a share of a full one; NaN where none ran."""
        ran = self.stage == stage
        return _mean(self.rows[ran] / self.full[ran])


@dataclass(frozen=True)
class Outcome:
    """One simulated span.

    arrivals : what came in
    latency : float (m,), milliseconds from a row's arrival to its answer; NaN without one
    exits : int (m,), the stage behind which it was answered; 0 without an answer
    refused : bool (m,), rows that were not admitted
    cut_short : bool (m,), rows answered early so that they were in time
    """

    lanes: int
    arrivals: Arrivals
    latency: np.ndarray
    exits: np.ndarray
    refused: np.ndarray
    cut_short: np.ndarray
    runs: Runs

    @property
    def rows(self) -> Percentiles:
        """Latencies of the rows."""
        return Percentiles.of(self.latency)

    @property
    def requests(self) -> Percentiles:
        """Latencies of the requests, each answered with its last row."""
        return Percentiles.of(np.maximum.reduceat(self.latency, self.arrivals.starts))

    def rows_at(self, exit: int) -> Percentiles:
        """Latencies of the rows that were answered at an exit."""
        return Percentiles.of(self.latency[self.exits == exit])

    def share_at(self, exit: int) -> float:
        """Share of the answered rows that were answered at an exit."""
        return _mean(self.exits[self.exits > 0] == exit)

    @property
    def refused_share(self) -> float:
        """Share of the rows that were not admitted."""
        return float(np.mean(self.refused))

    @property
    def failed_share(self) -> float:
        """Share of the rows that were admitted, and missed their deadline without any answer."""
        return float(np.mean((self.exits == 0) & ~self.refused))

    @property
    def cut_short_share(self) -> float:
        """Share of the rows that were answered early so that they were in time."""
        return float(np.mean(self.cut_short))

    @property
    def span(self) -> float:
        """Milliseconds from the first arrival to the last answer; zero where nothing ran."""
        if np.isnan(self.latency).all():
            return 0.0
        return float(np.nanmax(self.arrivals.row_times + self.latency) - self.arrivals.times[0])

    @property
    def rows_per_second(self) -> float:
        """Answered rows per second of the span."""
        answered = int((self.exits > 0).sum())
        return 1000 * answered / self.span if answered else 0.0

    @property
    def utilisation(self) -> float:
        """Share of the span in which a lane was busy, in the mean over the lanes."""
        busy = float(self.runs.milliseconds.sum())
        return busy / (self.lanes * self.span) if busy else 0.0


def _mean(values: np.ndarray) -> float:
    return float(np.mean(values)) if len(values) else float("nan")
