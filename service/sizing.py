"""Sizing: how many lanes a load needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import floor

import numpy as np

from models.errors import InvalidInput
from service.costs import CostModel
from service.scheduler import Mode
from service.simulated_load import Arrivals
from service.simulated_outcome import Outcome
from service.simulator import DEFAULT_BOUNDS, Bounds, ignore, simulate

MOST_CUT_SHORT = 0.01  # of the rows, as of the requests that may take longer than the objective

Watch = Callable[[int], Callable[[int], None]]
"""Asked before every simulation, with its number of lanes: whom to tell of the rows."""


@dataclass(frozen=True)
class Sizing:
    """What a load needs.

    outcome : with the fewest lanes that are enough; None where no number is
    least : p99 of the requests in milliseconds if every row ran at once and by itself
    """

    outcome: Outcome | None
    least: float

    @property
    def devices(self) -> int | None:
        """The fewest lanes that are enough; None where no number is."""
        return self.outcome.lanes if self.outcome else None


def devices_needed(
    arrivals: Arrivals,
    costs: CostModel,
    slo: float,
    mode: Mode = "rebatch",
    bounds: Bounds = DEFAULT_BOUNDS,
    watch: Watch = lambda lanes: ignore,
) -> Sizing:
    """The fewest lanes that meet the objective, by doubling, then bisection.

    slo : milliseconds

    Raises
    ------
    InvalidInput
        When there can be no such objective, or the load cannot be simulated.
    """
    if not slo > 0:
        raise InvalidInput(f"slo: found {slo:g} ms, expected more than zero")
    least = float(np.percentile(_least(arrivals, costs), 99))
    if least > min(slo, bounds.deadline):
        return Sizing(None, least)

    def tried(lanes: int) -> Outcome:
        return simulate(arrivals, costs, lanes, mode, bounds, watch(lanes))

    # up to this number of lanes could not even do the work in full batches
    too_few = floor(offered_lanes(arrivals, costs))
    outcome = tried(too_few + 1)
    while not is_met(outcome, slo):
        too_few = outcome.lanes
        if too_few >= len(arrivals.times):  # a lane for every request
            return Sizing(None, least)
        outcome = tried(2 * too_few)
    while outcome.lanes > too_few + 1:
        middle = tried((too_few + outcome.lanes) // 2)
        if is_met(middle, slo):
            outcome = middle
        else:
            too_few = middle.lanes
    return Sizing(outcome, least)


def is_met(outcome: Outcome, slo: float) -> bool:
    """Whether the objective is met.

    The p99 of the requests is at most `slo` milliseconds, no row is refused or fails, and at most
    one in a hundred is answered early to be in time.
    """
    return (
        outcome.requests.p99 <= slo
        and not outcome.refused_share
        and not outcome.failed_share
        and outcome.cut_short_share <= MOST_CUT_SHORT
    )


def offered_lanes(arrivals: Arrivals, costs: CostModel) -> float:
    """Lanes that the load would keep busy if all batches were full."""
    times = [costs.row_milliseconds(stage, costs.base) for stage in range(1, costs.stages + 1)]
    return float(np.cumsum(times)[arrivals.exits - 1].sum() / arrivals.span)


def _least(arrivals: Arrivals, costs: CostModel) -> np.ndarray:
    """Milliseconds that every request takes at least, by its deepest row: float (n,)."""
    times = [costs.milliseconds(stage, costs.base, 1) for stage in range(1, costs.stages + 1)]
    deepest = np.maximum.reduceat(arrivals.exits, arrivals.starts)
    return np.asarray(np.cumsum(times)[deepest - 1])
