from __future__ import annotations

import asyncio
from contextlib import aclosing
from pathlib import Path

import numpy as np
import pytest

from models.bundle import Bundle
from models.errors import BundleError, DeadlineExceeded, InvalidInput, Overloaded, Unavailable
from models.policy import Policy
from models.runtime import Answers, StageRuntime, at_exits
from service.dataplane import Dataplane
from service.metrics import Metrics
from service.options import Options
from service.prediction import Prediction
from service.request import Left
from service.settings import Settings
from tests.service.conftest import Gate, cold_dataplane, counted, serving

K = 4


@pytest.fixture(scope="module")
def everywhere(runtime: StageRuntime, rows: np.ndarray) -> list[Answers]:
    """Every exit's answers to all rows, computed offline."""
    return runtime.all_exits((rows,))


def scores_of(answers: list[Answers], sent: slice) -> list[np.ndarray]:
    return [exit_answers.score[sent] for exit_answers in answers]


def assert_answers(prediction: Prediction, answers: list[Answers], exits: np.ndarray) -> None:
    expected = at_exits([a.take(np.arange(len(exits))) for a in answers], exits)
    np.testing.assert_array_equal(prediction.routed.exits, exits)
    np.testing.assert_array_equal(prediction.routed.rows, np.arange(len(exits)))
    np.testing.assert_allclose(
        prediction.routed.answers.probabilities, expected.probabilities, atol=1e-4
    )


@pytest.mark.parametrize("all_exits", [False, True])
@pytest.mark.parametrize("max_exit", [None, 2])
@pytest.mark.parametrize("name", ["certified", "full", "exit:1", "exit:3"])
async def test_answers_are_those_of_the_policy_up_to_the_last_exit_asked_for(
    dataplane: Dataplane,
    everywhere: list[Answers],
    rows: np.ndarray,
    name: str,
    max_exit: int | None,
    all_exits: bool,
) -> None:
    options = Options(policy=name, max_exit=max_exit, all_exits=all_exits)
    prediction = await dataplane.predict(rows[:40], options)
    policy = dataplane.manifest.policy if name == "certified" else Policy.full(K)
    if name.startswith("exit"):
        policy = Policy.at_exit(int(name[-1]), K)
    exits = np.minimum(policy.route(scores_of(everywhere, slice(40))), max_exit or K)
    assert_answers(prediction, everywhere, exits)
    assert (prediction.routed.left == Left.POLICY).all()
    assert prediction.milliseconds > 0


async def test_all_exits_come_with_all_their_answers(
    dataplane: Dataplane, everywhere: list[Answers], rows: np.ndarray
) -> None:
    prediction = await dataplane.predict(rows[:20], Options(all_exits=True, max_exit=3))
    assert list(prediction.passed) == [1, 2, 3]
    assert (prediction.reached == 3).all()
    for number, answers in prediction.passed.items():
        expected = everywhere[number - 1]
        np.testing.assert_allclose(answers.probabilities, expected.probabilities[:20], atol=1e-4)
        np.testing.assert_array_equal(answers.labels, expected.labels[:20])


async def test_nothing_is_kept_of_exits_that_nobody_asked_for(
    dataplane: Dataplane, rows: np.ndarray
) -> None:
    assert (await dataplane.predict(rows[:3])).passed == {}


async def test_a_row_that_had_to_leave_is_certified_where_it_may_leave_anyway(
    dataplane: Dataplane, everywhere: list[Answers], rows: np.ndarray
) -> None:
    prediction = await dataplane.predict(rows[:64], Options(max_exit=1))
    threshold = dataplane.manifest.exits[0].threshold
    expected = everywhere[0].score[:64] >= np.float32(threshold)
    assert 0 < expected.sum() < 64
    np.testing.assert_array_equal(prediction.certified, expected)


@pytest.mark.parametrize(
    ("options", "certified"),
    [
        (Options("full"), True),
        (Options("exit:4"), True),
        (Options("exit:1"), False),
        (Options("full", max_exit=3), False),
    ],
)
async def test_only_full_depth_and_the_deployed_policy_are_certified(
    dataplane: Dataplane, rows: np.ndarray, options: Options, certified: bool
) -> None:
    assert set((await dataplane.predict(rows[:30], options)).certified) == {certified}


async def test_a_stream_gives_every_row_once_and_the_same_answers(
    dataplane: Dataplane, rows: np.ndarray
) -> None:
    whole = await dataplane.predict(rows[:50])
    parts = [part async for part in dataplane.stream(rows[:50])]
    places = np.concatenate([part.routed.rows for part in parts])
    assert sorted(places) == list(range(50))
    assert len(parts) > 1
    for part in parts:
        expected = whole.routed.answers.take(part.routed.rows)
        np.testing.assert_array_equal(part.routed.exits, whole.routed.exits[part.routed.rows])
        np.testing.assert_array_equal(part.certified, whole.certified[part.routed.rows])
        np.testing.assert_allclose(
            part.routed.answers.probabilities, expected.probabilities, atol=1e-4
        )


async def test_easy_rows_are_streamed_while_hard_ones_still_run(
    dataplane: Dataplane, everywhere: list[Answers], rows: np.ndarray, gates: list[Gate]
) -> None:
    exits = dataplane.manifest.policy.route(scores_of(everywhere, slice(50)))
    gates.append(Gate(stage=2))
    async with aclosing(dataplane.stream(rows[:50])) as parts:
        first = await anext(parts)
        assert not gates[0].opened.is_set()
        assert set(exits[first.routed.rows]) == {1}
        gates[0].opened.set()
        others = [place async for part in parts for place in part.routed.rows]
    assert sorted([*first.routed.rows, *others]) == list(range(50))


async def test_a_stream_that_is_closed_gives_up_its_rows(
    bundle: Bundle, rows: np.ndarray, gates: list[Gate]
) -> None:
    async with serving(bundle) as plane:
        gates.append(Gate(stage=2))
        async with aclosing(plane.stream(rows[:50])) as parts:
            first = await anext(parts)
        gates[0].opened.set()
        given_up = 50 - len(first.routed.rows)
        assert counted(plane.metrics, "rows_total", outcome="cancelled") == given_up
        assert counted(plane.metrics, "requests_total", outcome="cancelled") == 1


async def test_a_deadline_gives_the_deepest_answer_there_is(
    dataplane: Dataplane, everywhere: list[Answers], rows: np.ndarray, gates: list[Gate]
) -> None:
    gates.append(Gate(stage=2))
    prediction = await dataplane.predict(rows[:20], Options("full", deadline_ms=300))
    assert_answers(prediction, everywhere, np.ones(20, int))
    assert (prediction.routed.left == Left.DEADLINE).all()
    assert not prediction.certified.any()


async def test_all_exits_with_a_deadline_are_those_that_were_reached(
    dataplane: Dataplane, rows: np.ndarray, gates: list[Gate]
) -> None:
    gates.append(Gate(stage=3))
    options = Options("exit:1", all_exits=True, deadline_ms=300)
    prediction = await dataplane.predict(rows[:5], options)
    assert prediction.reached.tolist() == [2] * 5
    assert prediction.routed.exits.tolist() == [1] * 5
    assert (prediction.routed.left == Left.POLICY).all()


async def test_a_deadline_before_any_answer_is_an_error(
    dataplane: Dataplane, rows: np.ndarray, gates: list[Gate]
) -> None:
    gates.append(Gate(stage=1))
    with pytest.raises(DeadlineExceeded):
        await dataplane.predict(rows[:2], Options(deadline_ms=200))


async def test_a_cancelled_request_is_counted_as_cancelled(
    bundle: Bundle, rows: np.ndarray, gates: list[Gate]
) -> None:
    async with serving(bundle) as plane:
        gates.append(Gate(stage=1))
        request = asyncio.create_task(plane.predict(rows[:3]))
        await asyncio.to_thread(gates[0].reached.wait, 60)
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request
        gates[0].opened.set()
        assert counted(plane.metrics, "requests_total", outcome="cancelled") == 1
        assert counted(plane.metrics, "rows_total", outcome="cancelled") == 3


async def test_a_full_service_refuses_and_takes_rows_again_later(
    bundle: Bundle, rows: np.ndarray, gates: list[Gate]
) -> None:
    async with serving(bundle, max_queue_rows=64) as plane:
        gates.append(Gate(stage=1))
        waiting = asyncio.create_task(plane.predict(rows[:64]))
        await asyncio.to_thread(gates[0].reached.wait, 60)
        with pytest.raises(Overloaded, match="64") as refusal:
            await plane.predict(rows[:1])
        assert refusal.value.retry_after >= 0
        gates[0].opened.set()
        assert len((await waiting).certified) == 64
        assert len((await plane.predict(rows[:1])).certified) == 1
        assert counted(plane.metrics, "requests_total", outcome="overloaded") == 1
        assert counted(plane.metrics, "requests_total", outcome="ok") == 2


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (Options("fast"), "policy"),
        (Options(max_exit=5), "max_exit"),
        (Options(deadline_ms=0), "deadline_ms"),
        (Options(priority="shadow"), "priority"),
        (Options("fast", all_exits=True), "policy"),
    ],
)
async def test_options_are_checked_for_both_ways_to_ask(
    dataplane: Dataplane, rows: np.ndarray, options: Options, word: str
) -> None:
    with pytest.raises(InvalidInput, match=word):
        await dataplane.predict(rows[:1], options)
    with pytest.raises(InvalidInput, match=word):
        await anext(dataplane.stream(rows[:1], options))


async def test_before_the_warm_up_nothing_is_answered(bundle: Bundle, rows: np.ndarray) -> None:
    plane = cold_dataplane(bundle)
    assert not plane.ready
    with pytest.raises(Unavailable, match="warming up"):
        await plane.predict(rows[:1])
    plane.close()


async def test_a_failed_warm_up_is_the_reason_for_not_being_ready(
    bundle: Bundle, rows: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise BundleError("the weights are sour")

    monkeypatch.setattr("service.dataplane.open_engine", fail)
    plane = cold_dataplane(bundle)
    await plane.warm_up()
    assert not plane.ready
    assert plane.reason == "the warm-up failed: the weights are sour"
    with pytest.raises(Unavailable, match="the weights are sour"):
        await plane.predict(rows[:1])
    plane.close()


@pytest.mark.skipif(Path("/dev/nvidia0").exists(), reason="a CUDA device is there")
async def test_a_device_that_is_not_there_is_an_error_at_start(bundle: Bundle) -> None:
    reasons: list[str] = []
    settings = Settings(bundle=str(bundle.path), device="cuda")
    plane = Dataplane(bundle, settings, Metrics(), on_broken=reasons.append)
    await plane.warm_up()
    assert not plane.ready
    assert "cannot use cuda" in plane.reason
    assert len(reasons) == 1
    plane.close()


async def test_a_closed_service_says_that_it_is_stopping(bundle: Bundle, rows: np.ndarray) -> None:
    async with serving(bundle) as plane:
        await asyncio.to_thread(plane.close)
        assert not plane.ready
        with pytest.raises(Unavailable, match="stopping"):
            await plane.predict(rows[:1])


async def test_closing_answers_what_was_admitted(
    bundle: Bundle, rows: np.ndarray, gates: list[Gate]
) -> None:
    async with serving(bundle) as plane:
        gates.append(Gate(stage=1))
        admitted = asyncio.create_task(plane.predict(rows[:2]))
        await asyncio.to_thread(gates[0].reached.wait, 60)
        closing = asyncio.create_task(asyncio.to_thread(plane.close))
        gates[0].opened.set()
        assert len((await admitted).certified) == 2
        await closing


async def test_a_lane_that_dies_is_the_reason_and_is_told_at_once(
    bundle: Bundle, rows: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    async with serving(bundle, on_broken=told.append) as plane:

        def lose(*_: object) -> None:
            raise SystemExit("the device fell off")

        monkeypatch.setattr(StageRuntime, "run", lose)
        with pytest.raises(Unavailable, match="the device fell off"):
            await plane.predict(rows[:2])
        assert not plane.ready
        assert "about to end" in plane.reason
        assert "the device fell off" in plane.reason
        assert len(told) == 1
        assert "the device fell off" in told[0]
        with pytest.raises(Unavailable, match="about to end"):
            await plane.predict(rows[:1])


@pytest.mark.parametrize("all_exits", [False, True])
async def test_with_exits_off_every_answer_is_that_of_full_depth(
    bundle: Bundle, everywhere: list[Answers], rows: np.ndarray, all_exits: bool
) -> None:
    async with serving(bundle, mode="monolith") as plane:
        prediction = await plane.predict(rows[:20], Options(all_exits=all_exits))
        assert_answers(prediction, everywhere, np.full(20, K))
        assert prediction.certified.all()
        assert list(prediction.passed) == ([K] if all_exits else [])
        with pytest.raises(InvalidInput, match="exits off"):
            await plane.predict(rows[:1], Options("exit:1"))
