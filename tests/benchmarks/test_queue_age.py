from __future__ import annotations

import pytest

from benchmarks.queue_age import WatchedScheduler, aged
from service.costs import CostModel
from service.simulated_load import Load

COSTS = CostModel((1, 2, 4), [[1.0, 1.2, 1.6], [1.0, 1.2, 1.6]])


def test_the_queue_is_asked_at_every_arrival_and_is_older_the_more_comes() -> None:
    ages = []
    for rate in (10.0, 600.0, 1200.0):
        age, outcome = aged(Load(rate, (0.5, 0.5), (1,)), COSTS, 1, 5.0)
        assert len(WatchedScheduler.ages) == len(outcome.arrivals.times)
        ages.append(age)
    assert ages[0] == pytest.approx(0, abs=0.05)
    assert ages[0] < ages[1] < ages[2] < outcome.rows.p99
