from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.errors import InvalidInput
from models.manifest import Manifest
from models.policy import Policy
from service.options import Options, deadline_of, priority_of, thresholds_of
from service.request import Priority
from tests.manifests import full_manifest

K = 4
EXITS = range(1, K + 1)


@pytest.fixture(scope="module")
def manifest() -> Manifest:
    """Four exits, the second of them off."""
    made = full_manifest(exits=K)
    exits = list(made.exits)
    exits[1] = exits[1].model_copy(update={"threshold": None})
    return made.model_copy(update={"exits": tuple(exits)})


def exits_taken(thresholds: np.ndarray, scores: list[list[float]]) -> list[int]:
    """Where rows leave by the engine's rule: behind the first stage whose threshold they reach."""
    leaves = np.array(scores, np.float32) >= thresholds
    assert leaves[:, -1].all()
    return (leaves.argmax(axis=1) + 1).tolist()


scores_of_rows = st.lists(st.lists(st.floats(0, 1), min_size=K, max_size=K), min_size=1, max_size=9)
policies = st.sampled_from(["certified", "full", *(f"exit:{k}" for k in EXITS)])


def policy_named(name: str, manifest: Manifest) -> Policy:
    if name.startswith("exit:"):
        return Policy.at_exit(int(name[-1]), K)
    return manifest.policy if name == "certified" else Policy.full(K)


@given(scores_of_rows, policies, st.none() | st.integers(1, K))
def test_thresholds_say_what_the_offline_policy_says_up_to_the_last_exit_asked_for(
    manifest: Manifest, scores: list[list[float]], name: str, max_exit: int | None
) -> None:
    options = Options(policy=name, max_exit=max_exit)
    taken = exits_taken(thresholds_of(options, manifest, EXITS), scores)
    columns = list(np.array(scores, np.float32).T)
    expected = np.minimum(policy_named(name, manifest).route(columns), max_exit or K)
    assert taken == expected.tolist()


def test_thresholds_are_infinite_where_an_exit_is_off(manifest: Manifest) -> None:
    thresholds = thresholds_of(Options(max_exit=3), manifest, EXITS)
    assert thresholds.dtype == np.float32
    deployed = np.float32(manifest.exits[0].threshold)
    np.testing.assert_array_equal(thresholds[:3], [deployed, math.inf, -math.inf])


@pytest.mark.parametrize("policy", ["certified", "full", "exit:4"])
@pytest.mark.parametrize("max_exit", [None, 4])
def test_with_exits_off_every_row_runs_to_the_end(
    manifest: Manifest, policy: str, max_exit: int | None
) -> None:
    thresholds = thresholds_of(Options(policy, max_exit), manifest, (K,))
    np.testing.assert_array_equal(thresholds, [-math.inf])


@pytest.mark.parametrize(
    ("chosen", "field"),
    [
        ({"policy": "exit:2"}, "policy"),
        ({"max_exit": 3}, "max_exit"),
        ({"policy": "exit:4", "max_exit": 1}, "max_exit"),
    ],
)
def test_with_exits_off_no_row_can_leave_early(
    manifest: Manifest, chosen: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidInput, match=f"^{field}: .*exits off: expected exit 4, or no"):
        thresholds_of(Options(**chosen), manifest, (K,))


@pytest.mark.parametrize(
    "policy",
    ["", "fast", "Full", "exit:0", "exit:5", "exit:-1", "exit:1e9", "exit:\u0664", "x" * 99],
)
def test_an_unknown_policy_is_answered_with_the_known_ones(manifest: Manifest, policy: str) -> None:
    with pytest.raises(InvalidInput, match=r"'certified', 'full' or 'exit:<k>' .* 1 to 4") as error:
        thresholds_of(Options(policy=policy), manifest, EXITS)
    assert repr(policy[:40]) in str(error.value)
    assert len(str(error.value)) < 200


@pytest.mark.parametrize("max_exit", [0, -1, 5, 10**100])
def test_an_exit_that_is_not_there_is_named(manifest: Manifest, max_exit: int) -> None:
    with pytest.raises(InvalidInput, match=r"max_exit: found .* from 1 to 4") as error:
        thresholds_of(Options(max_exit=max_exit), manifest, EXITS)
    assert len(str(error.value)) < 200


@pytest.mark.parametrize(
    "deadline", [0, 0.0, -0.0, -1, -math.inf, math.nan, math.inf, 3_600_001, 10**400]
)
def test_a_deadline_that_cannot_be_kept_or_never_ends_is_refused(deadline: float) -> None:
    with pytest.raises(InvalidInput, match=r"deadline_ms: found .*over 0 and up to 3600000"):
        deadline_of(Options(deadline_ms=deadline), 5.0)


@given(st.floats(0, 3_600_000, exclude_min=True), st.floats(0, 1e9))
def test_a_deadline_counts_from_the_arrival(deadline: float, arrival: float) -> None:
    assert deadline_of(Options(deadline_ms=deadline), arrival) == arrival + deadline


def test_without_a_deadline_there_is_time() -> None:
    assert deadline_of(Options(), 5.0) == math.inf


@pytest.mark.parametrize("priority", ["", "shadow", "INTERACTIVE", "1", "x" * 99])
def test_an_unknown_priority_is_answered_with_the_known_ones(priority: str) -> None:
    with pytest.raises(InvalidInput, match=r"priority: found .*'interactive' or 'batch'") as error:
        priority_of(Options(priority=priority))
    assert len(str(error.value)) < 200


def test_priorities_have_names() -> None:
    assert priority_of(Options()) == Priority.INTERACTIVE
    assert priority_of(Options(priority="batch")) == Priority.BATCH
