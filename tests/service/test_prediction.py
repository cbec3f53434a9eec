from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from models.errors import InvalidInput
from models.runtime import Answers, at_exits
from service.prediction import check_answers, leave_by_policy
from service.request import Left, Routed


def routed_at(exits: list[int], scores: np.ndarray, stages: tuple[int, ...]) -> Routed:
    """Rows that passed all exits up to theirs; behind it there are no numbers."""
    passed = []
    for stage, number in enumerate(stages):
        score = np.where(np.array(exits) >= number, scores[:, stage], np.nan).astype(np.float32)
        labels = np.zeros((len(exits), 1), bool)
        passed.append(Answers(np.full((len(exits), 1), number, np.float32), labels, score))
    places = np.searchsorted(stages, exits)
    left = np.where(np.array(exits) == stages[-1], Left.POLICY, Left.DEADLINE)
    rows = np.arange(len(exits))
    return Routed(
        rows,
        at_exits(passed, places + 1),
        np.array(exits),
        left,
        np.zeros(len(rows)),
        tuple(passed),
    )


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data(), stages=st.sampled_from([(1, 2, 3), (2, 5), (3,)]))
def test_leaving_by_a_policy_afterwards_is_leaving_by_it_at_once(
    data: st.DataObject, stages: tuple[int, ...]
) -> None:
    depth, count = len(stages), data.draw(st.integers(1, 6))
    numbers = st.sampled_from([-np.inf, 0.2, 0.5, 0.8, np.inf])
    thresholds = np.array([*(data.draw(numbers) for _ in stages[1:]), -np.inf], np.float32)
    scores = np.array(
        [[data.draw(st.sampled_from([0.1, 0.5, 0.9])) for _ in stages] for _ in range(count)]
    )
    reached = [data.draw(st.sampled_from(stages)) for _ in range(count)]
    routed = leave_by_policy(routed_at(reached, scores, stages), thresholds, stages)
    for row in range(count):
        last = stages.index(reached[row])
        leaving = [k for k in range(depth) if scores[row, k] >= thresholds[k] and k <= last]
        assert routed.exits[row] == stages[leaving[0] if leaving else last]
        assert routed.answers.probabilities[row] == routed.exits[row]
        assert (routed.left[row] == Left.POLICY) == bool(leaving)


def test_an_overflown_answer_names_its_row() -> None:
    routed = routed_at([2, 1, 2], np.array([[0.5, 0.5], [0.5, 0.5], [np.nan, 0.5]]), (1, 2))
    with pytest.raises(InvalidInput, match="row 2;"):
        check_answers(routed, (1, 2))
    fine = routed_at([2, 1, 2], np.full((3, 2), 0.5), (1, 2))
    check_answers(fine, (1, 2))


def test_a_probability_that_is_no_number_is_refused_though_the_score_is_one() -> None:
    routed = routed_at([2, 1, 2], np.full((3, 2), 0.5), (1, 2))
    routed.answers.probabilities[1, 0] = np.nan
    with pytest.raises(InvalidInput, match="row 1"):
        check_answers(routed, (1, 2))
