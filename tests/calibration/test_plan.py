from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.progress import Progress

from calibration.costs import without_exit
from calibration.plan import (
    Traffic,
    batch_plans,
    is_truncated,
    mean_milliseconds,
    payoffs,
    recorded_traffic,
    remeasured,
    rescaled,
    stand_in_rows,
    traffic_of,
)
from models.bundle import Bundle
from models.measurements import Costs
from models.policy import Policy
from models.preprocessing import TensorSpec
from models.runtime import StageRuntime
from tests.measurements import costs as made_up_costs


@st.composite
def routed(draw: st.DrawFn) -> tuple[Policy, list[np.ndarray]]:
    """A policy and the scores of a few rows, with ties and exits that are off."""
    depth = draw(st.integers(1, 5))
    level = st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0])
    thresholds = draw(st.lists(st.none() | level, min_size=depth - 1, max_size=depth - 1))
    rows = draw(st.integers(1, 12))
    scores = [
        np.array(draw(st.lists(level, min_size=rows, max_size=rows)), np.float32)
        for _ in range(depth)
    ]
    return Policy(tuple(thresholds)), scores


def costs_of(depth: int, seed: int = 0) -> Costs:
    return made_up_costs(np.random.default_rng(seed), depth)


def exit_of(row: int, policy: Policy, scores: list[np.ndarray], off: int = 0) -> int:
    """Where a row leaves, exit `off` taken out: by hand."""
    for number, threshold in enumerate(policy.thresholds, start=1):
        if number != off and threshold is not None and scores[number - 1][row] >= threshold:
            return number
    return policy.depth


def milliseconds(exits: list[int], costs: Costs, batch: int) -> float:
    """Mean time of rows that leave at these exits: by hand."""
    ways = [sum(stage[batch] for stage in costs.stage_milliseconds[:number]) for number in exits]
    return sum(ways) / len(ways) / costs.batch_rows[batch]


def without(items: tuple[float | None, ...], number: int) -> tuple[float | None, ...]:
    return items[: number - 1] + items[number:]


@given(case=routed())
def test_traffic_is_where_each_row_leaves(case: tuple[Policy, list[np.ndarray]]) -> None:
    policy, scores = case
    traffic = traffic_of(policy, scores)
    rows = range(len(scores[0]))
    exits = [exit_of(row, policy, scores) for row in rows]
    for number in range(1, policy.depth + 1):
        share = exits.count(number) / len(rows)
        assert traffic.leaving[number - 1] == pytest.approx(share)
        reaching = sum(exit_ >= number for exit_ in exits) / len(rows)
        assert traffic.reaching[number - 1] == pytest.approx(reaching)
        for then in range(1, policy.depth + 1):
            moved = [
                row
                for row in rows
                if exits[row] == number < policy.depth
                and exit_of(row, policy, scores, off=number) == then
            ]
            found = traffic.leaves_next[number - 1, then - 1]
            assert found == pytest.approx(len(moved) / len(rows))


@given(case=routed(), batch=st.integers(0, 5), seed=st.integers(0, 9))
def test_an_exit_pays_exactly_when_the_model_is_slower_without_it(
    case: tuple[Policy, list[np.ndarray]], batch: int, seed: int
) -> None:
    policy, scores = case
    costs = costs_of(policy.depth, seed)
    traffic = traffic_of(policy, scores)
    rows = range(len(scores[0]))
    with_it = milliseconds([exit_of(row, policy, scores) for row in rows], costs, batch)
    assert mean_milliseconds(traffic, costs, batch) == pytest.approx(with_it)
    found = payoffs(traffic, costs, batch)
    assert [payoff.exit for payoff in found] == list(range(1, policy.depth))
    for payoff in found:
        fewer = Policy(without(policy.thresholds, payoff.exit))
        kept = [score for k, score in enumerate(scores, start=1) if k != payoff.exit]
        exits = [exit_of(row, fewer, kept) for row in rows]
        gain = milliseconds(exits, without_exit(costs, payoff.exit), batch) - with_it
        assert payoff.saving - payoff.cost == pytest.approx(gain, abs=1e-12)
        assert payoff.saving >= 0
        assert payoff.pays == (payoff.saving > payoff.cost)


def test_an_exit_that_nobody_reaches_costs_nothing() -> None:
    traffic = traffic_of(Policy((0.0, 0.5)), [np.ones(4, np.float32)] * 3)
    first, second = payoffs(traffic, costs_of(3))
    assert first.cost > 0
    assert (second.cost, second.saving, second.pays) == (0.0, 0.0, False)


@given(case=routed())
def test_every_measured_batch_has_its_plan(case: tuple[Policy, list[np.ndarray]]) -> None:
    policy, scores = case
    costs, traffic = costs_of(policy.depth), traffic_of(policy, scores)
    plans = batch_plans(traffic, costs)
    assert [plan.rows for plan in plans] == list(costs.batch_rows)
    for batch, plan in enumerate(plans):
        assert list(plan.exits) == payoffs(traffic, costs, batch)
        whole = costs.whole_milliseconds[batch] / plan.rows
        assert plan.ratio == pytest.approx(mean_milliseconds(traffic, costs, batch) / whole)


def test_recorded_traffic_is_that_of_the_rows_it_was_measured_on(
    bundle: Bundle, runtime: StageRuntime, rows: np.ndarray
) -> None:
    scores = [answers.score for answers in runtime.all_exits((rows,))]
    expected = traffic_of(bundle.manifest.policy, scores)
    found = recorded_traffic(bundle.manifest.test.exits)
    np.testing.assert_allclose(found.leaving, expected.leaving, atol=1e-9)
    np.testing.assert_allclose(found.leaves_next, expected.leaves_next, atol=1e-9)


@given(factor=st.floats(0.1, 10), depth=st.integers(1, 5))
def test_what_a_bundle_leaves_out_is_as_much_slower_as_what_it_holds(
    factor: float, depth: int
) -> None:
    recorded = costs_of(depth).model_copy(update={"beyond_milliseconds": (1.0, 2.0, 3.0, 4, 5, 6)})
    stages = [[factor * ms for ms in stage] for stage in recorded.stage_milliseconds]
    here = recorded.model_copy(
        update={
            "machine": "another",
            "stage_milliseconds": tuple(map(tuple, stages)),
            "beyond_milliseconds": (0.0,) * 6,
            "whole_milliseconds": (1.0,) * 6,
        }
    )
    found = rescaled(here, recorded)
    assert found.machine == "another"
    assert found.stage_milliseconds == here.stage_milliseconds
    for name in ("beyond_milliseconds", "whole_milliseconds"):
        expected = factor * np.array(getattr(recorded, name))
        np.testing.assert_allclose(getattr(found, name), expected)


def test_rescaling_follows_every_batch_by_its_own_factor() -> None:
    recorded = costs_of(2).model_copy(update={"beyond_milliseconds": (1.0,) * 6})
    factors = np.arange(1, 7)
    stages = [tuple((factors * np.array(ms)).tolist()) for ms in recorded.stage_milliseconds]
    here = recorded.model_copy(update={"stage_milliseconds": tuple(stages)})
    np.testing.assert_allclose(rescaled(here, recorded).beyond_milliseconds, factors)


def test_rescaling_reads_records_of_other_batches_between_their_points() -> None:
    recorded = costs_of(1).model_copy(
        update={
            "batch_rows": (1, 3),
            "stage_milliseconds": ((1.0, 3.0),),
            "beyond_milliseconds": (2.0, 6.0),
            "whole_milliseconds": (3.0, 9.0),
        }
    )
    here = recorded.model_copy(update={"batch_rows": (2,), "stage_milliseconds": ((4.0,),)})
    assert rescaled(here, recorded).beyond_milliseconds == pytest.approx((8.0,))


def test_a_bundle_is_measured_again_whole_or_truncated(bundle: Bundle, progress: Progress) -> None:
    recorded = bundle.manifest.costs
    assert not is_truncated(recorded)
    here = remeasured(bundle, progress, rounds=1)
    assert np.shape(here.stage_milliseconds) == np.shape(recorded.stage_milliseconds)
    assert here.stage_milliseconds != recorded.stage_milliseconds
    costs = recorded.model_copy(update={"beyond_milliseconds": (5.0,) * 6})
    manifest = bundle.manifest.model_copy(update={"costs": costs})
    truncated = Bundle(bundle.path, manifest, bundle.files)
    here = remeasured(truncated, progress, rounds=1)
    assert is_truncated(here)
    factor = np.sum(here.stage_milliseconds, axis=0) / np.sum(costs.stage_milliseconds, axis=0)
    np.testing.assert_allclose(here.beyond_milliseconds, 5 * factor)
    np.testing.assert_allclose(here.whole_milliseconds, costs.whole_milliseconds * factor)


def test_made_up_rows_have_the_types_and_shapes_that_the_model_takes() -> None:
    specs = (
        TensorSpec(name="input_ids", dtype="int64", row_shape=(None,)),
        TensorSpec(name="attention_mask", dtype="float32", row_shape=(None,)),
        TensorSpec(name="pixels", dtype="float16", row_shape=(3, 4)),
    )
    ids, mask, pixels = stand_in_rows(specs, 5)
    assert ids.shape == mask.shape == (5, 32)
    assert ids.dtype == np.int64
    assert (mask == 1).all()
    assert (pixels.shape, pixels.dtype) == ((5, 3, 4), np.float16)
    assert len(np.unique(pixels)) > 40


def test_reaching_never_falls_below_nothing() -> None:
    traffic = Traffic(np.array([0.1, 0.2, 0.7, 0.0]), np.zeros((4, 4)))
    assert traffic.reaching[-1] == 0.0
    assert traffic.reaching[0] == pytest.approx(1.0)
