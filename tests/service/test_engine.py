from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from models.encoding import Group
from models.errors import DeadlineExceeded, InvalidInput, Overloaded, Unavailable
from models.policy import Policy
from models.runtime import Answers, Carry, Piece, StageRuntime, at_exits
from service import run_clock
from service.costs import CostModel
from service.engine import Engine
from service.engine_options import EngineOptions
from service.metrics import Metrics
from service.request import Job, Left, Priority, Routed
from tests.service.conftest import counted

STAGES = 4
MIXED = (0.97, 0.98, 0.985)  # thresholds at which rows leave at every exit
FULL = (np.inf,) * 3


class WrappedRuntime:
    """Stands before a real runtime: holds runs, counts them, and lets them fail."""

    def __init__(self, runtime: StageRuntime) -> None:
        self.runtime = runtime
        self.exits = runtime.exits
        self.held_from = STAGES + 1
        self.reached = threading.Event()
        self.release = threading.Event()
        self.runs: list[tuple[int, int]] = []
        self.fault = lambda stage, carry: None
        self.join_fault = lambda: None

    def run(self, stage: int, carry: Carry) -> tuple[Answers, Carry]:
        self.runs.append((stage, len(carry[0])))
        if stage >= self.held_from:
            self.reached.set()
            assert self.release.wait(timeout=60)
        self.fault(stage, carry)
        return self.runtime.run(stage, carry)

    def gather(self, pieces: Sequence[Piece]) -> Carry:
        self.join_fault()
        return self.runtime.gather(pieces)

    def hold(self, stage: int = 1) -> None:
        self.held_from = stage
        self.reached.clear()
        self.release.clear()

    async def is_reached(self) -> None:
        assert await asyncio.to_thread(self.reached.wait, 60)


class Bench:
    """Makes engines, and closes them after the test."""

    def __init__(self, runtime: StageRuntime, rows: np.ndarray) -> None:
        self.wrapped = WrappedRuntime(runtime)
        self.metrics = Metrics().of("digits")
        self.rows = rows
        self.engines: list[Engine] = []

    def engine(self, milliseconds: float = 1.0, **options: Any) -> Engine:
        """The cost model says that a batch of 1 to 16 rows takes so long in every stage."""
        costs = CostModel((1, 16), [[milliseconds, 2 * milliseconds]] * STAGES, 16)
        costs.base = (self.rows.shape[1:],)
        probe = (np.zeros_like(self.rows[:1]),)
        engine = Engine(
            self.wrapped, costs, self.metrics, probe, labels=10, options=EngineOptions(**options)
        )
        self.engines.append(engine)
        return engine

    def counted(self, name: str, **labels: str) -> float:
        return counted(self.metrics, name, **labels)


@pytest.fixture
def bench(runtime: StageRuntime, rows: np.ndarray) -> Iterator[Bench]:
    bench = Bench(runtime, rows)
    yield bench
    bench.wrapped.release.set()
    for engine in bench.engines:
        engine.close()


def job(rows: np.ndarray, thresholds: Sequence[float] = MIXED, **fields: Any) -> Job:
    group = Group(np.arange(len(rows)), (rows,))
    return Job([group], np.array([*thresholds, -np.inf], np.float32), **fields)


def expected(runtime: StageRuntime, rows: np.ndarray) -> tuple[np.ndarray, Answers]:
    """Exits and answers of the offline policy."""
    answers = runtime.all_exits((rows,))
    exits = Policy(MIXED).route([exit_answers.score for exit_answers in answers])
    return exits, at_exits(answers, exits)


def assert_as_offline(routed: Routed, runtime: StageRuntime, rows: np.ndarray) -> None:
    exits, answers = expected(runtime, rows)
    np.testing.assert_array_equal(routed.exits, exits)
    np.testing.assert_array_equal(routed.answers.labels, answers.labels)
    np.testing.assert_allclose(routed.answers.probabilities, answers.probabilities, atol=1e-4)
    np.testing.assert_allclose(routed.answers.score, answers.score, atol=1e-4)


@pytest.mark.parametrize("mode", ["rebatch", "compact"])
@pytest.mark.parametrize("lanes", [1, 3])
async def test_rows_keep_their_order_and_leave_where_the_policy_says(
    bench: Bench, runtime: StageRuntime, mode: str, lanes: int
) -> None:
    engine = bench.engine(mode=mode, lanes=lanes)
    routed = await engine.run(job(bench.rows[:100]))
    assert set(routed.exits) == {1, 2, 3, 4}
    assert set(routed.left) == {Left.POLICY}
    np.testing.assert_array_equal(routed.rows, np.arange(100))
    assert_as_offline(routed, runtime, bench.rows[:100])


@pytest.mark.parametrize("mode", ["rebatch", "compact"])
async def test_many_requests_at_once_get_their_own_answers(
    bench: Bench, runtime: StageRuntime, mode: str
) -> None:
    engine = bench.engine(mode=mode, lanes=2)
    sizes = np.random.default_rng(0).integers(1, 9, 60)
    starts = np.cumsum(sizes) - sizes
    requests = [bench.rows[a : a + n] for a, n in zip(starts, sizes, strict=True)]
    together = await asyncio.gather(*(engine.run(job(sent)) for sent in requests))
    for sent, routed in zip(requests, together, strict=True):
        assert_as_offline(routed, runtime, sent)
    batched = [rows for stage, rows in bench.wrapped.runs if stage > 1]
    assert max(batched) > 8  # rows of several requests met


async def test_rows_of_one_request_may_have_different_policies_beside_them(
    bench: Bench, runtime: StageRuntime
) -> None:
    engine = bench.engine()
    sent = bench.rows[:12]
    mixed, full, first = await asyncio.gather(
        engine.run(job(sent)),
        engine.run(job(sent, FULL)),
        engine.run(job(sent, (-np.inf, np.inf, np.inf))),
    )
    assert_as_offline(mixed, runtime, sent)
    assert set(full.exits) == {4}
    assert set(first.exits) == {1}


async def test_a_row_that_leaves_at_exit_1_costs_one_stage(bench: Bench) -> None:
    engine = bench.engine()
    await engine.run(job(bench.rows[:40], (-np.inf, np.inf, np.inf)))
    assert {stage for stage, _ in bench.wrapped.runs} == {1}


async def test_the_model_in_one_piece_answers_as_its_last_exit(
    bench: Bench, runtime: StageRuntime, bundle: Any
) -> None:
    whole = StageRuntime(bundle.model, bundle.manifest.carries, exits=(4,))
    costs = CostModel((1, 16), [[1.0, 2.0]], 16, (bench.rows.shape[1:],))
    engine = Engine(whole, costs, bench.metrics, (bench.rows[:1],), 10)
    bench.engines.append(engine)
    routed = await engine.run(Job(job(bench.rows[:40]).groups, np.array([-np.inf], np.float32)))
    assert set(routed.exits) == {4}
    last = runtime.all_exits((bench.rows[:40],))[-1]
    np.testing.assert_allclose(routed.answers.probabilities, last.probabilities, atol=1e-4)


async def test_a_stream_gives_every_row_once_as_it_leaves(
    bench: Bench, runtime: StageRuntime
) -> None:
    engine = bench.engine()
    bench.wrapped.hold(2)
    sent = bench.rows[:16]
    exits, answers = expected(runtime, sent)
    parts = engine.stream(job(sent))
    first = await anext(parts)
    assert set(first.exits) == {1}
    assert set(first.rows) == set(np.flatnonzero(exits == 1))
    bench.wrapped.release.set()
    every = [first, *[part async for part in parts]]
    order = np.concatenate([part.rows for part in every])
    assert sorted(order) == list(range(16))
    np.testing.assert_array_equal(np.concatenate([part.exits for part in every]), exits[order])
    np.testing.assert_allclose(
        np.concatenate([part.answers.probabilities for part in every]),
        answers.probabilities[order],
        atol=1e-4,
    )


async def test_all_exits_of_a_row_are_kept_where_they_are_asked_for(
    bench: Bench, runtime: StageRuntime
) -> None:
    engine = bench.engine(lanes=2)
    sent = bench.rows[:30]
    traced, plain = await asyncio.gather(
        engine.run(job(sent, FULL, all_exits=True)), engine.run(job(sent))
    )
    assert len(traced.passed) == 4
    assert not plain.passed
    for passed, alone in zip(traced.passed, runtime.all_exits((sent,)), strict=True):
        np.testing.assert_allclose(passed.probabilities, alone.probabilities, atol=1e-4)
        np.testing.assert_array_equal(passed.labels, alone.labels)


async def test_a_full_queue_refuses_at_once_and_takes_rows_again_later(bench: Bench) -> None:
    engine = bench.engine(capacity=10)
    bench.wrapped.hold()
    first = asyncio.create_task(engine.run(job(bench.rows[:10])))
    await bench.wrapped.is_reached()
    with pytest.raises(Overloaded, match="10 of 10 rows are waiting") as refusal:
        await engine.run(job(bench.rows[:3]))
    assert refusal.value.cause == "rows"
    assert bench.counted("refused_rows_total", cause="rows") == 3
    bench.wrapped.release.set()
    await first
    assert len((await engine.run(job(bench.rows[:3]))).exits) == 3


async def test_a_wait_over_the_bound_is_refused_by_its_worst_case(bench: Bench) -> None:
    # a row of a full batch takes 4 stages of 20 / 16 ms
    engine = bench.engine(milliseconds=10.0, max_wait=21.0, capacity=100)
    bench.wrapped.hold()
    running = asyncio.create_task(engine.run(job(bench.rows[:16])))
    await bench.wrapped.is_reached()
    waiting = [asyncio.create_task(engine.run(job(bench.rows[:1]))) for _ in range(5)]
    await asyncio.sleep(0)
    with pytest.raises(Overloaded, match="may take 25 ms, expected at most 21 ms") as refusal:
        await engine.run(job(bench.rows[:1]))
    assert refusal.value.cause == "wait"
    assert refusal.value.retry_after > 0
    bench.wrapped.release.set()
    await asyncio.gather(running, *waiting)


async def test_a_deadline_that_the_queue_would_miss_is_refused(bench: Bench) -> None:
    engine = bench.engine(milliseconds=100.0)
    bench.wrapped.hold()
    running = asyncio.create_task(engine.run(job(bench.rows[:16])))
    await bench.wrapped.is_reached()
    waiting = asyncio.create_task(engine.run(job(bench.rows[:20])))
    await asyncio.sleep(0)
    with pytest.raises(Overloaded, match="more than the deadline of") as refusal:
        await engine.run(job(bench.rows[:1], deadline=engine.clock() + 150))
    assert refusal.value.cause == "deadline"
    with pytest.raises(DeadlineExceeded, match=r"the first exit alone takes 100\.0 ms"):
        await engine.run(job(bench.rows[:1], deadline=engine.clock() + 50))
    assert bench.counted("refused_rows_total", cause="deadline") == 2
    bench.wrapped.release.set()
    await asyncio.gather(running, waiting)


@pytest.mark.parametrize("stage", [2, 3, 4])
async def test_at_its_deadline_a_row_is_answered_with_the_deepest_answer_it_has(
    bench: Bench, runtime: StageRuntime, stage: int
) -> None:
    engine = bench.engine(milliseconds=0.01)
    bench.wrapped.hold(stage)
    sent = bench.rows[:8]
    # the lane is held: nothing but the deadline can answer
    routed = await engine.run(job(sent, FULL, deadline=engine.clock() + 300))
    assert set(routed.exits) == {stage - 1}
    assert set(routed.left) == {Left.DEADLINE}
    alone = runtime.all_exits((sent,))[stage - 2]
    np.testing.assert_allclose(routed.answers.probabilities, alone.probabilities, atol=1e-4)
    assert bench.counted("deadline_answers_total") == 8
    bench.wrapped.release.set()
    assert len((await engine.run(job(sent))).exits) == 8


async def test_where_the_loop_is_late_a_request_is_over_ahead_of_its_deadline(bench: Bench) -> None:
    engine = bench.engine(milliseconds=0.01)
    bench.wrapped.hold()
    # the loop is busy with something else when the first deadline comes
    asyncio.get_running_loop().call_later(0.01, time.sleep, 0.1)
    with pytest.raises(DeadlineExceeded):
        await engine.run(job(bench.rows[:1], deadline=engine.clock() + 20))
    deadline = engine.clock() + 400
    with pytest.raises(DeadlineExceeded):
        await engine.run(job(bench.rows[:1], deadline=deadline))
    assert engine.clock() <= deadline - 80  # twice what it was late, less what is forgotten
    bench.wrapped.release.set()


async def test_a_deadline_before_any_answer_fails_the_request(bench: Bench) -> None:
    engine = bench.engine(milliseconds=0.01)
    bench.wrapped.hold()
    with pytest.raises(DeadlineExceeded, match="before the first exit"):
        await engine.run(job(bench.rows[:2], deadline=engine.clock() + 100))
    assert bench.counted("failed_rows_total", reason="deadline") == 2
    assert bench.counted("rows_total", outcome="failed") == 2
    bench.wrapped.release.set()
    assert len((await engine.run(job(bench.rows[:2]))).exits) == 2


@pytest.mark.parametrize("mode", ["rebatch", "compact"])
@pytest.mark.parametrize("stage", [1, 2, 3, 4])
async def test_cancelled_rows_stop_at_the_next_stage_and_free_their_places(
    bench: Bench, stage: int, mode: str
) -> None:
    engine = bench.engine(capacity=8, mode=mode)
    bench.wrapped.hold(stage)
    request = asyncio.create_task(engine.run(job(bench.rows[:8], FULL)))
    await bench.wrapped.is_reached()
    request.cancel()
    with pytest.raises(asyncio.CancelledError):
        await request
    assert bench.counted("cancelled_rows_total", stage=str(stage)) == 8
    waiting = asyncio.create_task(engine.run(job(bench.rows[:8])))  # there is room at once
    bench.wrapped.release.set()
    assert len((await waiting).exits) == 8
    cancelled_runs = bench.wrapped.runs[: bench.wrapped.runs.index((1, 8), 1)]
    assert [ran for ran, _ in cancelled_runs] == list(range(1, stage + 1))


async def failure(engine: Engine, rows: np.ndarray) -> Exception | None:
    """Why rows are not answered at once, by a lane that is held."""
    results = await asyncio.gather(
        engine.run(job(rows, deadline=engine.clock() + 30)), return_exceptions=True
    )
    return results[0] if isinstance(results[0], Exception) else None


async def test_closing_answers_what_was_admitted_and_refuses_the_rest(bench: Bench) -> None:
    engine = bench.engine(lanes=2)
    bench.wrapped.hold()
    admitted = asyncio.create_task(engine.run(job(bench.rows[:2])))
    await bench.wrapped.is_reached()
    closing = asyncio.create_task(asyncio.to_thread(engine.close))
    while not isinstance(error := await failure(engine, bench.rows[:1]), Unavailable):
        assert isinstance(error, DeadlineExceeded)  # the engine is not closing yet
    assert "stopping" in str(error)
    bench.wrapped.release.set()
    assert len((await admitted).exits) == 2
    await closing


def poison(rows: np.ndarray) -> np.ndarray:
    poisoned = rows.copy()
    poisoned[:, 0, 0, 0] = 77.0
    return poisoned


def fail_on_poison(stage: int, carry: Carry) -> None:
    if stage == 1 and (carry[0][:, 0, 0, 0] == 77.0).any():
        raise RuntimeError("[ONNXRuntimeError] : 2 : INVALID_ARGUMENT : /secret/path")


async def test_a_bad_row_fails_alone(bench: Bench, runtime: StageRuntime) -> None:
    engine = bench.engine()
    bench.wrapped.fault = fail_on_poison
    bench.wrapped.hold()
    first = asyncio.create_task(engine.run(job(bench.rows[:1])))
    await bench.wrapped.is_reached()
    sent = bench.rows[:4].copy()
    sent[2] = poison(sent[2:3])[0]
    bad = asyncio.create_task(engine.run(job(sent)))
    good = [asyncio.create_task(engine.run(job(bench.rows[k : k + 3]))) for k in (10, 20, 30)]
    await asyncio.sleep(0)
    bench.wrapped.release.set()
    with pytest.raises(InvalidInput, match="cannot compute row 2") as failure:
        await bad
    assert "secret" not in str(failure.value)
    for start, task in zip((10, 20, 30), good, strict=True):
        assert_as_offline(await task, runtime, bench.rows[start : start + 3])
    assert len((await first).exits) == 1
    assert engine.broken is None
    assert (1, 13) in bench.wrapped.runs  # they did share a batch
    assert bench.counted("failed_rows_total", reason="invalid_input") == 4


async def test_bad_rows_only_are_no_reason_to_give_up_the_lane(bench: Bench) -> None:
    engine = bench.engine()
    bench.wrapped.fault = fail_on_poison
    with pytest.raises(InvalidInput, match="cannot compute row 0"):
        await engine.run(job(poison(bench.rows[:3])))
    assert engine.broken is None
    assert len((await engine.run(job(bench.rows[:3]))).exits) == 3


def no_memory(stage: int, carry: Carry) -> None:
    if len(carry[0]) > 8:
        raise RuntimeError("Failed to allocate memory for requested buffer of size 123456")


async def test_a_batch_too_large_for_the_memory_is_halved(
    bench: Bench, runtime: StageRuntime
) -> None:
    engine = bench.engine()
    bench.wrapped.fault = no_memory
    routed = await engine.run(job(bench.rows[:16]))
    assert_as_offline(routed, runtime, bench.rows[:16])
    routed = await engine.run(job(bench.rows[:100]))
    assert_as_offline(routed, runtime, bench.rows[:100])
    too_large = [rows for _, rows in bench.wrapped.runs if rows > 8]
    assert too_large == [16]  # later batches are smaller from the start


async def test_memory_that_stays_full_fails_the_rows_and_not_the_service(bench: Bench) -> None:
    engine = bench.engine()
    bench.wrapped.fault = lambda stage, carry: (
        no_memory(stage, (np.zeros(9),)) if len(carry[0]) > 1 else None
    )
    with pytest.raises(Unavailable, match="no memory left"):
        await engine.run(job(bench.rows[:16]))
    assert len(bench.wrapped.runs) == 4  # the batch, its two halves, and the probe
    bench.wrapped.fault = lambda stage, carry: None
    assert engine.broken is None
    assert len((await engine.run(job(bench.rows[:16]))).exits) == 16


async def test_a_lane_that_dies_fails_its_rows_and_breaks_the_engine(bench: Bench) -> None:
    engine = bench.engine(lanes=2)
    reasons: asyncio.Queue[str] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    engine.on_broken = lambda reason: loop.call_soon_threadsafe(reasons.put_nowait, reason)
    bench.wrapped.hold()
    waiting = [asyncio.create_task(engine.run(job(bench.rows[:3]))) for _ in range(4)]
    await bench.wrapped.is_reached()

    def die() -> None:
        raise SystemExit("the lane's thread is gone")

    bench.wrapped.join_fault = die
    bench.wrapped.release.set()
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(isinstance(result, Unavailable) for result in results), results
    assert engine.broken
    assert "the lane's thread is gone" in engine.broken
    assert await reasons.get() == engine.broken
    with pytest.raises(Unavailable, match="lane"):
        await engine.run(job(bench.rows[:1]))


async def test_a_device_that_runs_nothing_any_more_breaks_the_engine(bench: Bench) -> None:
    engine = bench.engine()

    def lost(stage: int, carry: Carry) -> None:
        raise RuntimeError("CUDA failure 700: an illegal memory access was encountered")

    bench.wrapped.fault = lost
    with pytest.raises(Unavailable, match="CUDA failure 700"):
        await engine.run(job(bench.rows[:5]))
    assert engine.broken


async def test_a_lane_that_is_stuck_in_one_run_breaks_the_engine(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_clock, "STUCK_MS", 0.0)
    monkeypatch.setattr(run_clock, "STUCK_RUNS", 1.0)
    engine = bench.engine(milliseconds=1.0)
    bench.wrapped.hold()
    request = asyncio.create_task(engine.run(job(bench.rows[:1])))
    await bench.wrapped.is_reached()
    while not engine.broken:  # whoever looks finds it out
        await failure(engine, bench.rows[:1])
    assert "stuck" in engine.broken
    with pytest.raises(Unavailable, match="stuck"):
        await request


async def test_when_overloaded_rows_may_leave_where_they_are(bench: Bench) -> None:
    engine = bench.engine(capacity=16, overload="shallow")
    bench.wrapped.hold()
    requests = [asyncio.create_task(engine.run(job(bench.rows[:4], FULL))) for _ in range(4)]
    await bench.wrapped.is_reached()
    bench.wrapped.release.set()
    routed = await asyncio.gather(*requests)
    left = np.concatenate([part.left for part in routed])
    assert (left == Left.OVERLOAD).any()
    shallow = np.concatenate([part.exits for part in routed])[left == Left.OVERLOAD]
    assert set(shallow) <= {1, 2, 3}
    assert bench.counted("overload_answers_total") == (left == Left.OVERLOAD).sum()
    calm = await engine.run(job(bench.rows[:2], FULL))
    assert set(calm.exits) == {4}


async def test_shadow_rows_wait_for_all_others(bench: Bench) -> None:
    engine = bench.engine()
    bench.wrapped.hold()
    first = asyncio.create_task(engine.run(job(bench.rows[:1], FULL)))
    await bench.wrapped.is_reached()
    done: list[str] = []

    async def send(name: str, count: int, priority: Priority) -> None:
        await engine.run(job(bench.rows[:count], FULL, priority=priority))
        done.append(name)

    tasks = [
        asyncio.create_task(send("shadow", 2, Priority.SHADOW)),
        asyncio.create_task(send("batch", 3, Priority.BATCH)),
        asyncio.create_task(send("interactive", 4, Priority.INTERACTIVE)),
    ]
    await asyncio.sleep(0)
    bench.wrapped.release.set()
    await asyncio.gather(first, *tasks)
    assert done == ["interactive", "batch", "shadow"]
    assert bench.counted("shadow_rows_total") == 2


async def test_the_queue_gauge_tells_the_rows_that_wait(bench: Bench) -> None:
    engine = bench.engine()
    bench.wrapped.hold()
    running = asyncio.create_task(engine.run(job(bench.rows[:16])))
    await bench.wrapped.is_reached()
    waiting = asyncio.create_task(engine.run(job(bench.rows[:7])))
    await asyncio.sleep(0)
    assert bench.counted("queue_rows", stage="1") == 7
    assert bench.counted("queue_age_seconds", stage="1") > 0
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert bench.counted("queue_rows", stage="1") == 0
    bench.wrapped.release.set()
    await running


async def test_thousands_of_requests_many_of_them_given_up_leave_nothing_behind(
    bench: Bench, runtime: StageRuntime
) -> None:
    engine = bench.engine(milliseconds=0.05, lanes=3, capacity=6000)
    exits, _ = expected(runtime, bench.rows)
    draw = np.random.default_rng(5)
    starts, sizes = draw.integers(0, 390, 3000), draw.integers(1, 4, 3000)

    async def ask(start: int, size: int, give_up: bool) -> bool:
        asked = asyncio.create_task(engine.run(job(bench.rows[start : start + size])))
        if give_up:
            for _ in range(start % 7):
                await asyncio.sleep(0)
            asked.cancel()
        answer = (await asyncio.gather(asked, return_exceptions=True))[0]
        if isinstance(answer, asyncio.CancelledError):
            return True
        assert isinstance(answer, Routed), answer
        return bool((answer.exits == exits[start : start + size]).all())

    asks = [ask(*one) for one in zip(starts, sizes, draw.random(3000) < 0.3, strict=True)]
    assert all(await asyncio.gather(*asks))
    assert engine.broken is None
    everything = job(np.repeat(bench.rows[:1], 6000, axis=0))  # there is room for all again
    assert len((await engine.run(everything)).exits) == 6000
