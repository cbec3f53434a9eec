from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from models.policy import Policy

thresholds = st.lists(st.none() | st.floats(0, 1, width=32), min_size=1, max_size=5).map(tuple)


def test_row_leaves_at_the_first_exit_that_is_on_and_sure() -> None:
    policy = Policy((0.9, None, 0.5))
    scores = [
        np.float32(s) for s in ([0.9, 0.8, 0.8, 0.1], [1, 1, 1, 1], [0, 0.5, 0.4, 0], [0] * 4)
    ]
    assert policy.route(scores).tolist() == [1, 3, 4, 4]


def test_full_depth_lets_nobody_leave_early() -> None:
    assert Policy.full(3).route([np.ones(2)] * 3).tolist() == [3, 3]


def test_at_exit_takes_every_row() -> None:
    assert Policy.at_exit(2, depth=3).route([np.zeros(2)] * 3).tolist() == [2, 2]


def test_at_the_last_exit_is_full_depth() -> None:
    assert Policy.at_exit(3, depth=3) == Policy.full(3)


@given(thresholds, st.integers(0, 2**32 - 1))
def test_routing_a_split_equals_asking_exit_by_exit(
    values: tuple[float | None, ...], seed: int
) -> None:
    policy = Policy(values)
    scores = np.random.default_rng(seed).random((policy.depth, 7), np.float32)
    expected = []
    for row in scores.T:
        exits = (k for k in range(1, policy.depth + 1) if policy.leaves(k, row[k - 1 : k])[0])
        expected.append(next(exits))
    assert policy.route(list(scores)).tolist() == expected


@given(thresholds, st.integers(0, 2**32 - 1))
def test_lower_thresholds_never_send_a_row_deeper(
    values: tuple[float | None, ...], seed: int
) -> None:
    scores = list(np.random.default_rng(seed).random((len(values) + 1, 7), np.float32))
    eager = Policy(tuple(None if value is None else value / 2 for value in values))
    assert (eager.route(scores) <= Policy(values).route(scores)).all()
