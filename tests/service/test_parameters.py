from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from models.errors import InvalidInput
from service.options import Options
from service.parameters import IGNORED, options_from


def test_without_parameters_the_options_are_the_defaults() -> None:
    assert options_from({}) == Options()
    assert options_from(dict.fromkeys(IGNORED, True)) == Options()


def test_parameters_are_options_by_their_names() -> None:
    sent = {"policy": "full", "max_exit": 2, "deadline_ms": 5, "priority": "batch"}
    assert options_from(sent) == Options("full", 2, 5, "batch")
    assert options_from({"deadline_ms": 0.5}).deadline_ms == 0.5


@pytest.mark.parametrize(
    ("sent", "deadline"), [(0, None), (1, 0.001), (2_500_000, 2500.0), (3_600_000_000, 3_600_000)]
)
def test_tritons_timeout_is_a_deadline_in_microseconds(sent: int, deadline: float | None) -> None:
    assert options_from({"timeout": sent}).deadline_ms == deadline


def test_a_timeout_of_none_leaves_the_deadline() -> None:
    assert options_from({"timeout": 0, "deadline_ms": 7}).deadline_ms == 7
    with pytest.raises(InvalidInput, match="both 'deadline_ms' and 'timeout'"):
        options_from({"timeout": 1, "deadline_ms": 7})


@given(st.integers(0, 2**64 - 1) | st.integers(0, 3))
@example(2)
def test_tritons_priorities_are_numbers_of_which_one_is_the_highest(priority: int) -> None:
    expected = "interactive" if priority < 2 else "batch"
    assert options_from({"priority": priority}).priority == expected


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        ({"polcy": "full"}, "the unknown 'polcy', expected any of policy"),
        ({"sequence_id": 3}, "the unknown 'sequence_id'"),
        ({"policy": 1}, "policy is 1, expected a text"),
        ({"policy": None}, "policy is None, expected a text"),
        ({"max_exit": 2.0}, r"max_exit is 2.0, expected a whole number"),
        ({"max_exit": True}, "max_exit is True, expected a whole number"),
        ({"deadline_ms": "5"}, "deadline_ms is '5', expected a whole number or a number"),
        ({"priority": 1.0}, r"priority is 1.0, expected a text or a whole number"),
        ({"priority": -1}, "priority is -1, expected 0 to 18446744073709551615"),
        ({"timeout": 1.5}, r"timeout is 1.5, expected a whole number"),
        ({"timeout": -1}, "timeout is -1, expected 0 to 3600000000"),
        ({"timeout": 10**400}, "timeout is 1000.*, expected 0 to 3600000000"),
    ],
)
def test_other_parameters_are_refused_by_name(sent: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidInput, match=f"^parameters: .*{words}"):
        options_from(sent)


names = st.sampled_from(["policy", "max_exit", "deadline_ms", "priority", "timeout"]) | st.text()
values = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.just(10**400)
    | st.floats()
    | st.text()
    | st.lists(st.integers())
)


@given(st.dictionaries(names, values, max_size=4))
def test_whatever_is_sent_is_options_or_refused(sent: dict[str, Any]) -> None:
    try:
        options = options_from(sent)
    except InvalidInput:
        return
    assert type(options.policy) is str
    assert type(options.priority) is str
    assert type(options.max_exit) in (int, type(None))
    assert type(options.deadline_ms) in (int, float, type(None))
