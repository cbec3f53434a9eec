"""The load of a simulation: which requests arrive when, and where their rows would leave."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import isfinite

import numpy as np

from models.errors import InvalidInput

USUAL_ROWS = 50_000
SHORTEST, LONGEST = 2.0, 3600.0  # seconds
MOST_ROWS = 10_000_000  # of one simulation: about 1 GB
SUM_TOLERANCE = 1e-3  # shares are often given in whole percent


@dataclass(frozen=True)
class Arrivals:
    """Requests on a clock.

    times : float (n,), milliseconds, ascending
    sizes : int (n,), rows of each request
    exits : int (m,), the stage behind which each row leaves, request after request
    span : milliseconds in which they all arrive
    """

    times: np.ndarray
    sizes: np.ndarray
    exits: np.ndarray
    span: float

    @property
    def rows(self) -> int:
        """Number of rows m."""
        return len(self.exits)

    @property
    def row_times(self) -> np.ndarray:
        """When each row arrives: float (m,)."""
        return np.repeat(self.times, self.sizes)

    @property
    def starts(self) -> np.ndarray:
        """The first row of each request: int (n,)."""
        return np.asarray(np.cumsum(self.sizes) - self.sizes)

    def without_exits(self) -> Arrivals:
        """The same requests at the unsplit model: one stage, behind which every row leaves."""
        return replace(self, exits=np.ones_like(self.exits))


@dataclass(frozen=True)
class Load:
    """Poisson arrivals of requests.

    rate : rows per second
    mix : (S,), share of the rows that leaves behind each stage
    rows_per_request : each request draws one of these, all equally likely

    Raises
    ------
    InvalidInput
        When there are no such arrivals.
    """

    rate: float
    mix: tuple[float, ...]
    rows_per_request: tuple[int, ...] = (1,)

    def __post_init__(self) -> None:
        if not isfinite(self.rate) or self.rate <= 0:
            raise InvalidInput(
                f"rate: found {self.rate:g} rows per second, expected more than zero"
            )
        if not self.mix or any(not 0 <= share <= 1 for share in self.mix):
            raise InvalidInput(
                f"exit mix: found {_listed(self.mix)}, expected one share from 0 to 1 per exit"
            )
        if abs(sum(self.mix) - 1) > SUM_TOLERANCE:
            raise InvalidInput(
                f"exit mix: {_listed(self.mix)} sums to {sum(self.mix):.4g}, expected 1; give the "
                "share of the rows that leaves at each exit, the last included"
            )
        if not self.rows_per_request or min(self.rows_per_request) < 1:
            raise InvalidInput(
                f"rows per request: found {_listed(self.rows_per_request)}, expected whole numbers "
                "of at least 1"
            )

    @property
    def mean_size(self) -> float:
        """Rows of a request, in the mean."""
        return sum(self.rows_per_request) / len(self.rows_per_request)

    @property
    def usual_seconds(self) -> float:
        """A span in which enough happens: that of 50,000 rows, from 2 s to an hour."""
        return min(max(USUAL_ROWS / self.rate, SHORTEST), LONGEST)

    def arrivals(self, seconds: float, seed: int) -> Arrivals:
        """Those of `seconds` seconds on the clock, at least one; all follows from the seed.

        Loads that differ only in the mix bring the same requests at the same times.
        """
        if not isfinite(seconds) or seconds <= 0:
            raise InvalidInput(f"seconds: found {seconds:g}, expected more than zero")
        if self.rate * seconds > MOST_ROWS:
            raise InvalidInput(
                f"{self.rate:g} rows per second bring {self.rate * seconds:.3g} rows in "
                f"{seconds:g} s, expected at most {MOST_ROWS:,} to simulate: take a shorter span"
            )
        clock, rows = (np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(2))
        requests = max(1, int(clock.poisson(self.rate / self.mean_size * seconds)))
        # given their number, Poisson arrivals are uniform over the span
        times = np.sort(clock.uniform(0, 1000 * seconds, requests))
        sizes = clock.choice(np.array(self.rows_per_request), requests)
        shares = np.array(self.mix) / sum(self.mix)
        exits = 1 + rows.choice(len(shares), size=int(sizes.sum()), p=shares)
        return Arrivals(times, sizes, exits, 1000 * seconds)


def _listed(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:g}" for value in values) or "nothing"
