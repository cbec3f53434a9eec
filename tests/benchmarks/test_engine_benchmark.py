from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from time import sleep

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.cuda_runtime import CudaRuntime
from models.encoding import Group
from models.runtime import Answers, Runtime, StageRuntime
from service.request import Job, Routed
from tests.conftest import ROOT

sys.path.append(str(ROOT / "benchmarks"))  # scripts import their neighbours by name

from engine_case import Case, Pool, random_case
from engine_latency import measure_hard_rows, measure_latency
from engine_load import answer_all, open_loop, poisson, saturate, settle
from engine_overhead import measure_overhead
from engine_saturated import VARIANTS, Saturation
from engine_setup import QUICK, Stand, mean_work, measure, open_stand
from engine_table import Table, at_least, at_most, spread, target_table
from engine_work import Recorder, Run, Window, fill_of, stage_loads, work_in

TINY = {"layers": 3, "hidden": 16, "heads": 2, "inner": 16, "head_width": 8, "vocabulary": 50}
PLAN = replace(
    QUICK, stage=0.01, warm=0.05, load=0.1, stream=0.1, most_rows=16, hard=(24,), pool=96
)
KEY = (1, ((4,),))
NOTHING = Routed(
    np.zeros(0, int),
    Answers(*np.zeros((3, 0, 1))),
    np.zeros(0, int),
    np.zeros(0, int),
    np.zeros(0),
)


@pytest.fixture(scope="module")
def case() -> Case:
    return random_case(PLAN.pool, **TINY)


@pytest.fixture(scope="module")
def stand(case: Case) -> Iterator[Stand]:
    opened = open_stand(case, PLAN, lanes=1)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def saturation(stand: Stand) -> Saturation:
    measured = Saturation(stand, PLAN)
    measured.measure()
    return measured


@given(st.lists(st.integers(1, 9), min_size=1, max_size=4), st.integers(1, 8))
def test_requests_hold_every_row_of_the_pool_with_its_own_tensors(
    sizes: list[int], rows: int
) -> None:
    places = np.random.default_rng(0).permutation(sum(sizes))
    parts = np.split(places, np.cumsum(sizes)[:-1])
    groups = [
        Group(part, (np.tile(part[:, None], (1, width)),)) for width, part in enumerate(parts, 1)
    ]
    requests = Pool(groups).requests(rows)
    assert len(requests) == max(1, sum(sizes) // rows)
    seen = [
        int(tensor_row[0])
        for request in requests
        for group in request
        for tensor_row in group.tensors[0]
    ]
    assert len(seen) == len(set(seen)) == min(sum(sizes), len(requests) * rows)
    for request in requests:
        held = np.concatenate([group.rows for group in request])
        assert sorted(held) == list(range(len(held)))


def test_only_wanted_rows_are_asked_for(case: Case) -> None:
    wanted = case.exits == 1
    requests = case.pool.requests(1, wanted)
    assert len(requests) == wanted.sum()
    ids = case.pool.groups[0].tensors[0]
    for (group,) in requests:
        (place,) = np.flatnonzero((ids == group.tensors[0]).all(axis=1))
        assert wanted[place]


@given(
    st.lists(st.tuples(st.floats(0, 9), st.floats(0.1, 5), st.integers(1, 9)), max_size=9),
    st.floats(0.5, 9.5),
)
def test_the_work_of_two_windows_is_that_of_both_together(
    runs: list[tuple[float, float, int]], border: float
) -> None:
    ran = [Run(KEY, rows, begun, begun + seconds) for begun, seconds, rows in runs]
    costs = {KEY: 0.25}
    parts = [work_in(Window(*span), ran, costs) for span in ((0, border), (border, 20))]
    assert sum(parts) == pytest.approx(0.25 * sum(rows for *_, rows in runs))


def test_fill_is_rows_over_those_of_full_batches() -> None:
    runs = [Run(KEY, 8, 0, 1), Run(KEY, 4, 1, 2), Run(KEY, 1, 5, 6)]
    assert fill_of(Window(0, 3), runs, {KEY: 8}) == 12 / 16
    assert np.isnan(fill_of(Window(3, 4), runs, {KEY: 8}))


def test_the_engine_does_the_work_that_the_exits_of_the_pool_ask_for(stand: Stand) -> None:
    """Rows per second counted by work are rows per second: over a whole pool they agree."""
    settle(stand.staged)
    jobs = stand.jobs("rebatch", 8)
    asyncio.run(answer_all(stand.engines["rebatch"], jobs, 4, PLAN.pool))
    runs = settle(stand.staged)
    costs = {load.key: 1.0 + load.key[0] for load in stand.loads}
    work = work_in(Window(0, np.inf), runs, costs)
    assert work / mean_work(stand.case, costs, stand.loads) == pytest.approx(PLAN.pool)
    assert stand.case.depth > 1.5


@pytest.mark.parametrize("opened", [StageRuntime, partial(CudaRuntime, provider="cpu")])
def test_every_run_has_a_measured_cost_wherever_carries_are(
    case: Case, opened: Callable[..., Runtime]
) -> None:
    recorder = Recorder(opened(case.model, case.carries))
    loads = stage_loads(recorder, case.pool.groups[0].tensors, [5, 2, 9])
    assert [load.rows for load in loads] == [5, 2, 9]
    recorder.take()
    costs = measure(recorder, loads, lanes=2, seconds=0.0)
    runs = recorder.take()
    assert {run.key for run in runs} == costs.keys()
    assert {(run.key[0], run.rows) for run in runs} == {(1, 5), (2, 2), (3, 9)}
    assert min(costs.values()) > 0


def test_rates_are_shares_of_the_ideal(saturation: Saturation) -> None:
    assert len(saturation.rounds) == PLAN.rounds
    for mode, rows in VARIANTS:
        share, best = (saturation.values(mode, rows, field) for field in ("share", "best"))
        np.testing.assert_allclose(saturation.values(mode, rows, "rate"), share * best)
        assert (share > 0).all()
        fill = saturation.values(mode, rows, "fill")
        assert ((fill > 0) & (fill <= 1)).all()
    assert saturation.capacity() > 0


def test_a_client_whose_request_fails_is_heard_of(stand: Stand) -> None:
    job = replace(stand.jobs("rebatch", 1)[0], deadline=0.0)
    with pytest.raises(Exception, match="deadline"):
        asyncio.run(saturate(stand.engines["rebatch"], [job], 2, 0.0, 0.01))


class Blocking:
    """Answers one request after another, and holds up the event loop meanwhile."""

    SECONDS = 0.02

    async def run(self, job: Job) -> Routed:
        sleep(self.SECONDS)  # noqa: ASYNC251
        return await asyncio.sleep(0, NOTHING)


def test_a_stream_counts_from_the_scheduled_arrival(stand: Stand) -> None:
    times = np.array([0.0, 0.0, 0.0, 0.0])
    stream = asyncio.run(open_loop(Blocking(), stand.jobs("rebatch", 1), times))
    assert stream.latency[-1] >= 4 * 1000 * Blocking.SECONDS
    assert stream.lateness[-1] >= 3 * 1000 * Blocking.SECONDS
    assert (stream.latency >= stream.lateness).all()


def test_requests_before_the_stream_is_warm_are_not_reported(stand: Stand) -> None:
    times = np.array([0.0, 0.001, 0.1, 0.101])
    stream = asyncio.run(
        open_loop(stand.engines["rebatch"], stand.jobs("rebatch", 1), times, warm=0.05)
    )
    assert len(stream.latency) == 2


def test_a_stopped_stream_sends_no_more(stand: Stand) -> None:
    stop = threading.Event()
    stop.set()
    stream = asyncio.run(
        open_loop(
            stand.engines["rebatch"], stand.jobs("rebatch", 1), np.arange(1.0, 9.0), stop=stop
        )
    )
    assert not len(stream.latency)
    assert np.isnan(stream.percentiles(50)).all()


def test_arrivals_are_as_many_as_the_rate_says() -> None:
    counts = [len(poisson(200, 2, seed)) for seed in range(50)]
    assert abs(np.mean(counts) - 400) < 3 * np.sqrt(400 / 50)


def test_percentiles_and_hard_rows_have_a_line_each(stand: Stand, saturation: Saturation) -> None:
    capacity = saturation.capacity()
    latency = measure_latency(stand, PLAN, capacity)
    assert [row[2] for row in latency.rows] == ["rebatch", "monolith"] * 3
    hard, targets = measure_hard_rows(stand, PLAN, capacity, saturation.stage_one())
    assert [row[:2] for row in hard.rows] == [
        ("none", "0"),
        ("past stage 1", "24"),
        ("one burst", "24"),
    ]
    assert len(targets) == 1


def test_the_overhead_has_a_figure_for_every_queue() -> None:
    table, targets = measure_overhead(rounds=1, row_stages=64)
    assert [len(row) for row in table.rows] == [4] * 3
    assert len(targets) == 3


def test_targets_are_met_or_missed_by_the_median() -> None:
    assert at_least("share", [0.9, 0.95, 0.99], 0.95).met
    assert not at_least("share", [0.9, 0.94, 0.99], 0.95).met
    assert at_most("batches", [1.4, 1.5, 9.0], 1.5).met
    assert not at_most("batches", [1.6, 1.6, 0.0], 1.5).met
    assert at_most("batches", [np.nan], 1.5).met is None
    rows = target_table([at_least("share", [1.0], 0.95), at_most("batches", [2.0], 1.5)]).rows
    assert [row[-1] for row in rows] == ["met", "missed"]


def test_rounds_are_told_by_median_and_quartiles() -> None:
    assert spread([4, 2, 1, 3, 5, np.nan], 1) == "3.0 (2.0 to 4.0)"
    assert spread([np.nan]) == "-"


def test_a_table_is_text_and_markdown() -> None:
    table = Table("Title", "Text.", ("a", "bcd"), [("12", "3")])
    assert table.plain() == "Title\nText.\n\na   bcd\n12  3\n"
    assert table.markdown() == "### Title\n\nText.\n\n| a | bcd |\n| --- | --- |\n| 12 | 3 |\n"


@pytest.mark.slow
def test_one_command_writes_the_page_without_what_a_device_lacks(tmp_path: Path) -> None:
    page = tmp_path / "engine.md"
    code = f"""
import sys
for name in ("pydantic", "bentoml", "torch", "sklearn", "tokenizers", "psutil"):
    sys.modules[name] = None
sys.path.insert(0, "benchmarks")
import engine
engine.random_case = lambda rows, name="", real=engine.random_case, **sizes: real(
    rows, name or "random encoder", **{TINY!r}
)
engine.main(["--quick", "--lanes", "1", "--out", {str(page)!r}])
"""
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert result.returncode == 0, result.stderr
    text = page.read_text()
    for title in ("# The engine", "## Targets", "alone", "saturated", "open loop", "memory"):
        assert title in text
        assert title.lstrip("# ") in result.stdout
    assert "--quick --lanes 1" in text
