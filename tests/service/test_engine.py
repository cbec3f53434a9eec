from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import numpy as np
import pytest

from models.errors import Overloaded, Unavailable
from models.policy import Policy
from models.runtime import Answers, Carry, StageRuntime, at_exits
from service.dataplane import Dataplane
from service.engine import Engine
from service.metrics import Metrics


@pytest.fixture
def engine(runtime: StageRuntime) -> Iterator[Engine]:
    engine = Engine(runtime, Metrics(), lanes=2, max_queue_rows=64)
    yield engine
    engine.close()


def queue_rows(engine: Engine) -> float:
    value = engine._metrics.registry.get_sample_value("offramp_queue_rows")
    assert value is not None
    return value


@pytest.mark.parametrize("threshold", [0.2, 0.6, 0.95])
async def test_rows_keep_their_order_and_leave_where_the_policy_says(
    engine: Engine, runtime: StageRuntime, rows: np.ndarray, threshold: float
) -> None:
    policy = Policy((threshold, None, threshold))
    sent = rows[:50]
    answers = runtime.all_exits((sent,), batch=50)
    exits = policy.route([exit_answers.score for exit_answers in answers])
    routed = await engine.run((sent,), policy)
    np.testing.assert_array_equal(routed.exits, exits)
    np.testing.assert_allclose(
        routed.answers.probabilities, at_exits(answers, exits).probabilities, atol=1e-4
    )


async def test_many_requests_at_once_get_their_own_answers(
    engine: Engine, runtime: StageRuntime, rows: np.ndarray
) -> None:
    policy = Policy((0.3, 0.3, 0.3))
    requests = [rows[start : start + 3] for start in range(0, 60, 3)]
    together = await asyncio.gather(*(engine.run((sent,), policy) for sent in requests))
    for sent, routed in zip(requests, together, strict=True):
        alone = await engine.run((sent,), policy)
        np.testing.assert_allclose(
            routed.answers.probabilities, alone.answers.probabilities, atol=1e-4
        )


class HeldRuntime:
    """Stands before a real runtime and holds every stage run until it is released."""

    def __init__(self, runtime: StageRuntime) -> None:
        self.runtime = runtime
        self.depth = runtime.depth
        self.started = threading.Event()
        self.release = threading.Event()

    def run(self, stage: int, carry: Carry) -> tuple[Answers, Carry]:
        self.started.set()
        assert self.release.wait(timeout=30)
        return self.runtime.run(stage, carry)


async def test_a_full_queue_refuses_at_once_and_takes_rows_again_later(
    runtime: StageRuntime, rows: np.ndarray
) -> None:
    held = HeldRuntime(runtime)
    engine = Engine(held, Metrics(), lanes=1, max_queue_rows=10)  # type: ignore[arg-type]
    full = Policy.full(runtime.depth)
    first = asyncio.create_task(engine.run((rows[:6],), full))
    second = asyncio.create_task(engine.run((rows[:4],), full))
    await asyncio.to_thread(held.started.wait, 30)
    assert queue_rows(engine) == 10
    with pytest.raises(Overloaded, match="10 of 10 rows"):
        await engine.run((rows[:1],), full)
    held.release.set()
    await asyncio.gather(first, second)
    assert queue_rows(engine) == 0
    assert len((await engine.run((rows[:1],), full)).exits) == 1
    engine.close()


async def test_closing_answers_what_was_admitted_and_refuses_the_rest(
    runtime: StageRuntime, rows: np.ndarray
) -> None:
    held = HeldRuntime(runtime)
    engine = Engine(held, Metrics(), lanes=1, max_queue_rows=10)  # type: ignore[arg-type]
    admitted = asyncio.create_task(engine.run((rows[:2],), Policy.full(runtime.depth)))
    await asyncio.to_thread(held.started.wait, 30)
    closing = asyncio.create_task(asyncio.to_thread(engine.close))
    held.release.set()
    assert len((await admitted).exits) == 2
    await closing
    with pytest.raises(Unavailable, match="stopping"):
        await engine.run((rows[:1],), Policy.full(runtime.depth))


async def test_a_stage_that_fails_frees_its_place_in_the_queue(
    engine: Engine, rows: np.ndarray
) -> None:
    with pytest.raises(Exception, match="INVALID_ARGUMENT"):
        await engine.run((rows[:2, :, :, :3],), Policy.full(4))
    assert queue_rows(engine) == 0


async def test_a_request_nobody_waits_for_stops_and_stays_counted_until_it_has(
    runtime: StageRuntime, rows: np.ndarray
) -> None:
    held = HeldRuntime(runtime)
    metrics = Metrics()
    engine = Engine(held, metrics, lanes=1, max_queue_rows=10)  # type: ignore[arg-type]
    request = asyncio.create_task(engine.run((rows[:6],), Policy.full(runtime.depth)))
    await asyncio.to_thread(held.started.wait, 30)
    request.cancel()
    with pytest.raises(asyncio.CancelledError):
        await request
    assert queue_rows(engine) == 6
    held.release.set()
    await asyncio.to_thread(engine.close)
    assert queue_rows(engine) == 0
    stages = [
        metrics.registry.get_sample_value("offramp_stage_seconds_count", {"stage": str(k)})
        for k in (1, 2)
    ]
    assert stages == [1, None]


async def test_a_cancelled_request_is_counted_as_cancelled(
    dataplane: Dataplane, rows: np.ndarray
) -> None:
    request = asyncio.create_task(dataplane.predict(rows[:1]))
    await asyncio.sleep(0)
    request.cancel()
    with pytest.raises(asyncio.CancelledError):
        await request
    counted = dataplane.metrics.registry.get_sample_value
    assert counted("offramp_requests_total", {"outcome": "cancelled"}) == 1
