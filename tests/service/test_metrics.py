from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram

from service.histogram import BulkHistogram
from service.metrics import Metrics
from service.model_metrics import Departure, ModelMetrics, StageQueue, StageRun
from service.request import Left, Priority
from tests.conftest import ROOT
from tests.service.conftest import counted


@pytest.fixture
def metrics() -> ModelMetrics:
    return Metrics().of("m")


def run(exit: int = 1, rows: int = 4, full: int = 8, milliseconds: float = 2.0) -> StageRun:
    return StageRun(exit, rows, full, milliseconds, np.full(rows, 0.5, np.float32))


def departure(
    exit: int = 1,
    rows: int = 1,
    left: Left = Left.POLICY,
    saved: float = 3.0,
    priority: Priority = Priority.INTERACTIVE,
) -> Departure:
    return Departure(exit, left, np.full(rows, 20.0), saved, priority)


def samples(registry: CollectorRegistry) -> list[tuple[object, ...]]:
    return [
        (sample.name, sample.labels, pytest.approx(sample.value))
        for metric in registry.collect()
        for sample in metric.samples
        if not sample.name.endswith("_created")
    ]


BOUNDS = (0.0, 0.25, 0.5, 3.0)


@given(
    st.lists(st.lists(st.sampled_from(BOUNDS) | st.floats(-10, 10), max_size=20), max_size=4),
    st.sampled_from([np.float32, np.float64]),
)
def test_observing_many_at_once_is_observing_one_by_one(
    parts: list[list[float]], kind: type[np.floating]
) -> None:
    one_by_one, in_bulk = CollectorRegistry(), CollectorRegistry()
    single = Histogram("h", "words", ["exit"], buckets=BOUNDS, registry=one_by_one)
    bulk = BulkHistogram("h", "words", ["exit"], buckets=BOUNDS, registry=in_bulk)
    for part in parts:
        values = np.array(part, kind)
        bulk.labels("1").observe_all(values)
        single.labels("1")
        for value in values.tolist():
            single.labels("1").observe(value)
    assert samples(in_bulk) == samples(one_by_one)


def test_a_histogram_with_labels_wants_their_values() -> None:
    histogram = BulkHistogram("h", "words", ["exit"], registry=CollectorRegistry())
    with pytest.raises(ValueError, match="missing label values"):
        histogram.observe_all(np.ones(3))


def test_metrics_are_not_kept_in_files_that_other_servers_delete(tmp_path: Path) -> None:
    code = """
from service.metrics import Metrics
metrics = Metrics()
metrics.of("m").request("ok")
assert b'offramp_requests_total{model="m",outcome="ok"} 1.0' in metrics.exposition()
"""
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code], env=environment, cwd=ROOT, check=True)
    assert not list(tmp_path.iterdir())


def test_metrics_know_neither_bentoml_nor_pydantic() -> None:
    code = """
import sys
import service.metrics
print(sorted({"bentoml", "pydantic", "torch", "onnxruntime"} & set(sys.modules)))
"""
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True
    )
    assert result.stdout.strip() == "[]"


def test_a_scrape_finds_what_was_told_just_before(metrics: ModelMetrics) -> None:
    metrics.ran(run(exit=1, rows=4, full=8, milliseconds=2.0))
    metrics.ran(run(exit=1, rows=8, full=8, milliseconds=4.0))
    metrics.ran(run(exit=3, rows=2, full=4, milliseconds=9.0))
    assert counted(metrics, "batch_rows_sum", stage="1") == 12
    assert counted(metrics, "batch_rows_count", stage="3") == 1
    assert counted(metrics, "batch_fill_sum", stage="1") == 1.5
    assert counted(metrics, "batch_fill_bucket", stage="1", le="0.5") == 1
    assert counted(metrics, "stage_seconds_sum", stage="1") == pytest.approx(0.006)
    assert counted(metrics, "score_count", exit="1") == 12
    assert counted(metrics, "score_sum", exit="3") == 1.0


def test_rows_that_leave_are_counted_by_exit_and_reason(metrics: ModelMetrics) -> None:
    metrics.departed(departure(exit=1, rows=3))
    metrics.departed(departure(exit=1, rows=2, left=Left.DEADLINE))
    metrics.departed(departure(exit=2, rows=1, left=Left.OVERLOAD, saved=0.0))
    assert counted(metrics, "rows_total", outcome="answered") == 6
    assert counted(metrics, "exits_total", exit="1") == 5
    assert counted(metrics, "exits_total", exit="2") == 1
    assert counted(metrics, "latency_seconds_count", exit="1") == 5
    assert counted(metrics, "latency_seconds_sum", exit="1") == pytest.approx(0.1)
    assert counted(metrics, "stage_seconds_saved_total") == pytest.approx(0.006)
    assert counted(metrics, "deadline_answers_total") == 2
    assert counted(metrics, "overload_answers_total") == 1


def test_shadow_rows_are_no_answers(metrics: ModelMetrics) -> None:
    metrics.departed(departure(exit=4, rows=7, priority=Priority.SHADOW))
    metrics.departed(departure(exit=4, rows=1, priority=Priority.BATCH))
    assert counted(metrics, "shadow_rows_total") == 7
    assert counted(metrics, "rows_total", outcome="answered") == 1
    assert counted(metrics, "exits_total", exit="4") == 1
    assert counted(metrics, "latency_seconds_count", exit="4") == 1


def test_rows_without_an_answer_are_counted_with_their_cause(metrics: ModelMetrics) -> None:
    metrics.refused("wait", 5)
    metrics.refused("rows", 2)
    metrics.failed("deadline", 3)
    metrics.cancelled(2, 4)
    assert counted(metrics, "refused_rows_total", cause="wait") == 5
    assert counted(metrics, "rows_total", outcome="refused") == 7
    assert counted(metrics, "failed_rows_total", reason="deadline") == 3
    assert counted(metrics, "rows_total", outcome="failed") == 3
    assert counted(metrics, "cancelled_rows_total", stage="2") == 4
    assert counted(metrics, "rows_total", outcome="cancelled") == 4


def test_one_overflown_score_does_not_spoil_the_sum(metrics: ModelMetrics) -> None:
    score = np.array([0.5, np.nan, np.inf], np.float32)
    metrics.ran(StageRun(1, 3, 4, 1.0, score))
    assert counted(metrics, "score_sum", exit="1") == 0.5
    assert counted(metrics, "score_count", exit="1") == 1


def test_queues_are_looked_at_when_somebody_asks(metrics: ModelMetrics) -> None:
    waiting = [StageQueue(1, 5, 250.0), StageQueue(2, 1, 40.0)]
    metrics.watch(lambda: waiting)
    assert counted(metrics, "queue_rows", stage="1") == 5
    assert counted(metrics, "queue_age_seconds", stage="2") == 0.04
    waiting[:] = [StageQueue(2, 3, 60.0)]
    assert counted(metrics, "queue_rows", stage="2") == 3
    assert counted(metrics, "queue_rows", stage="1") == 0
    assert counted(metrics, "queue_age_seconds", stage="1") == 0


def test_nothing_is_kept_without_bound_where_nobody_scrapes(metrics: ModelMetrics) -> None:
    for _ in range(1000):
        metrics.ran(run())
        metrics.departed(departure())
    assert len(metrics._runs) < 256
    assert len(metrics._departures) < 256
    assert counted(metrics, "stage_seconds_count", stage="1") == 1000


@pytest.fixture
def hasty_threads() -> Iterator[None]:
    """Threads take turns after every few instructions."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(usual)


@pytest.mark.usefixtures("hasty_threads")
def test_nothing_is_lost_between_lanes_and_scrapes(metrics: ModelMetrics) -> None:
    lanes, events = 4, 3000
    done = threading.Event()

    def lane(number: int) -> None:
        for _ in range(events):
            metrics.ran(run(exit=number, rows=1))
            metrics.departed(departure(exit=number))

    def scrape() -> None:
        while not done.is_set():
            metrics.look()

    threads = [threading.Thread(target=lane, args=(number,)) for number in range(lanes)]
    scraper = threading.Thread(target=scrape)
    for thread in (scraper, *threads):
        thread.start()
    for thread in threads:
        thread.join()
    done.set()
    scraper.join()
    for number in range(lanes):
        assert counted(metrics, "stage_seconds_count", stage=str(number)) == events
        assert counted(metrics, "exits_total", exit=str(number)) == events
    assert counted(metrics, "rows_total", outcome="answered") == lanes * events
