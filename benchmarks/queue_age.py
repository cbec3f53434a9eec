"""How old is the queue when the latency objective is reached? For the target of an autoscaler.

    python benchmarks/queue_age.py BUNDLE --rates 20000,30000 [--devices 1] [--rows-per-request 1]

The simulator serves the same Poisson arrivals at every rate. At every arrival the time that the
first waiting row has waited is noted, the longest of all stages: what `offramp_queue_age_seconds`
says when it is asked. As arrivals are Poisson, their mean is the mean over time.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar
from unittest.mock import patch

import numpy as np

from cli.stage_costs import read_costs, recorded_costs
from models.bundle import read_bundle
from service.costs import CostModel
from service.request import Priority
from service.scheduler import Scheduler
from service.simulated_load import Load
from service.simulated_outcome import Outcome
from service.simulator import simulate
from service.sizing import offered_lanes


class WatchedScheduler(Scheduler):
    """Notes the queue's age, in milliseconds, whenever a request is about to enter."""

    ages: ClassVar[list[float]] = []
    """Of the one simulation at a time."""

    def enter(self, groups: Sequence[Any], priority: Priority, deadline: float, now: float) -> Any:
        """Note it."""
        self.ages.append(max((now - line.since for line in self.lines() if line.rows), default=0))
        return super().enter(groups, priority, deadline, now)


def aged(load: Load, costs: CostModel, lanes: int, seconds: float) -> tuple[float, Outcome]:
    """The mean age of the queue in milliseconds, and what came of the rows."""
    WatchedScheduler.ages = []
    with patch("service.simulator.Scheduler", WatchedScheduler):
        outcome = simulate(load.arrivals(seconds, 0), costs, lanes)
    return float(np.mean(WatchedScheduler.ages)), outcome


def main() -> None:
    """Print one line per rate."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--rates", required=True, help="rows per second, with commas between them")
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--rows-per-request", type=int, default=1)
    parser.add_argument("--costs", type=Path, help="as of offramp simulate")
    parser.add_argument("--seconds", type=float, default=20)
    options = parser.parse_args()
    manifest = read_bundle(options.bundle).manifest
    given = read_costs(options.costs) if options.costs else recorded_costs(manifest.costs)
    costs = given.of_stages()
    mix = tuple(exit_.share_leaving for exit_ in manifest.test.exits)
    print(
        "| rows per second | load | p99 of requests, ms | mean age of the queue, ms | p99 / age |"
    )
    print("|---|---|---|---|---|")
    for rate in map(float, options.rates.split(",")):
        load = Load(rate, mix, (options.rows_per_request,))
        age, outcome = aged(load, costs, options.devices, options.seconds)
        busy = offered_lanes(outcome.arrivals, costs) / options.devices
        p99 = outcome.requests.p99
        print(f"| {rate:,.0f} | {busy:.0%} | {p99:.1f} | {age:.2f} | {p99 / age:.0f} |")


if __name__ == "__main__":
    main()
