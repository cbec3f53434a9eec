"""A busy event loop: deadlines are looked at earlier."""

from __future__ import annotations

import pytest

from service.loop_lag import LoopLag


def test_a_loop_that_was_never_late_takes_nothing_from_a_deadline() -> None:
    assert LoopLag().ahead(500.0, 0.0) == 0


def test_a_late_loop_answers_earlier_by_what_reading_and_writing_wait() -> None:
    lag = LoopLag()
    lag.saw(40.0, 1000.0)
    assert lag.ahead(500.0, 1000.0) == 80


def test_the_worst_counts_and_is_forgotten_by_half_each_second() -> None:
    lag = LoopLag()
    lag.saw(40.0, 0.0)
    lag.saw(3.0, 0.0)
    assert lag.ahead(500.0, 1000.0) == pytest.approx(40)
    lag.saw(0.0, 2000.0)
    assert lag.ahead(500.0, 4000.0) == pytest.approx(5)


def test_half_of_the_time_is_left_to_the_stages() -> None:
    lag = LoopLag()
    lag.saw(400.0, 0.0)
    assert lag.ahead(100.0, 0.0) == 50
