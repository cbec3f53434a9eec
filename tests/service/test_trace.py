from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest

from models.errors import DeadlineExceeded
from models.runtime import StageRuntime
from service.trace import Trace
from tests.service.test_engine import FULL, Bench, job

FIRST = (-np.inf, np.inf, np.inf)


@pytest.fixture
def bench(runtime: StageRuntime, rows: np.ndarray) -> Iterator[Bench]:
    bench = Bench(runtime, rows)
    yield bench
    bench.wrapped.release.set()
    for engine in bench.engines:
        engine.close()


@pytest.mark.parametrize("mode", ["rebatch", "compact"])
async def test_a_trace_has_every_run_and_every_exit_of_the_rows(bench: Bench, mode: str) -> None:
    engine, trace = bench.engine(mode=mode), Trace()
    begun = engine.clock()
    routed = await engine.run(job(bench.rows[:40], trace=trace))
    left = Counter(routed.exits.tolist())
    assert len(left) > 2
    for stage in range(1, 5):
        came = sum(rows for number, rows in left.items() if number >= stage)
        assert sum(run.rows for run in trace.runs if run.stage == stage) == came
        leaving = [out for out in trace.exits if out.exit == stage]
        assert sum(out.rows for out in leaving) == left[stage]
        if leaving:
            score = routed.answers.score[routed.exits == stage]
            assert min(out.lowest for out in leaving) == score.min()
            assert max(out.highest for out in leaving) == score.max()
    assert trace.queued is not None
    times = [begun, trace.queued, *(t for run in trace.runs for t in (run.begun, run.ended))]
    assert times == sorted(times)  # one lane
    assert {out.departed for out in trace.exits} == set(routed.departed)
    assert all(trace.answered(out) <= out.departed for out in trace.exits)
    assert {out.why for out in trace.exits} == {"policy"}


async def test_requests_in_one_batch_know_how_much_of_it_is_theirs(bench: Bench) -> None:
    engine, traces = bench.engine(), [Trace(), Trace()]
    bench.wrapped.hold()
    asked = [asyncio.create_task(engine.run(job(bench.rows[:1], FIRST)))]
    await bench.wrapped.is_reached()
    for rows, trace in ((2, traces[0]), (5, traces[1]), (3, None)):
        asked.append(asyncio.create_task(engine.run(job(bench.rows[:rows], FIRST, trace=trace))))
    await asyncio.sleep(0)
    bench.wrapped.release.set()
    await asyncio.gather(*asked)
    runs = [run for trace in traces for run in trace.runs]
    assert [(run.rows, run.batch_rows) for run in runs] == [(2, 10), (5, 10)]
    assert [out.rows for trace in traces for out in trace.exits] == [2, 5]
    assert all(trace.queued < run.begun for trace, run in zip(traces, runs, strict=True))


async def test_rows_that_leave_by_the_deadline_say_so(bench: Bench) -> None:
    engine, trace = bench.engine(), Trace()
    bench.wrapped.hold(2)
    deadline = engine.clock() + 200
    await engine.run(job(bench.rows[:3], FULL, trace=trace, deadline=deadline))
    bench.wrapped.release.set()
    (out,) = trace.exits
    assert (out.exit, out.rows, out.why) == (1, 3, "deadline")
    assert trace.answered(out) < deadline <= out.departed


async def test_nothing_is_noted_of_rows_that_are_gone(bench: Bench) -> None:
    engine, late, given_up, staying = bench.engine(), Trace(), Trace(), Trace()
    bench.wrapped.hold()
    deadline = engine.clock() + 100
    asked = asyncio.create_task(engine.run(job(bench.rows[:3], trace=late, deadline=deadline)))
    await bench.wrapped.is_reached()
    waiting = asyncio.create_task(engine.run(job(bench.rows[:3], trace=given_up)))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(DeadlineExceeded):
        await asked
    stays = asyncio.create_task(engine.run(job(bench.rows[:3], trace=staying)))
    await asyncio.sleep(0)
    bench.wrapped.release.set()
    await stays
    # rows that came later took the places of those that are gone
    assert [run.rows for run in staying.runs if run.stage == 1] == [3]
    for trace in (late, given_up):
        assert trace.queued is not None
        assert (trace.runs, trace.exits) == ([], [])
