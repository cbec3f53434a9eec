"""The service's Prometheus metrics. Every label has few values, whatever clients send."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal, TypeVar

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from service.histogram import BulkHistogram
from service.request import Left, Priority

STAGE_SECONDS = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10)
LATENCY_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
SCORES = tuple(k / 20 for k in range(1, 21))
SHARES = tuple(k / 10 for k in range(1, 11))
BATCH_ROWS = tuple(2**k for k in range(11))

FOLD_AT = 256  # events


@dataclass(frozen=True)
class StageRun:
    """One run of a stage.

    exit : number of the exit behind the stage
    rows : of the batch
    full : rows of the batch that the scheduler would have filled
    milliseconds : that it took
    score : float (rows,), of all its rows
    """

    exit: int
    rows: int
    full: int
    milliseconds: float
    score: np.ndarray


@dataclass(frozen=True)
class Departure:
    """Rows of one request that left together.

    exit : where
    left : why there
    latency : float (m,), milliseconds from arrival to answer
    saved : stage milliseconds that these m rows did not need against full depth
    """

    exit: int
    left: Left
    latency: np.ndarray
    saved: float
    priority: Priority


@dataclass(frozen=True)
class StageQueue:
    """Rows that wait for a stage.

    exit : number of the exit behind the stage
    age : milliseconds that the first of them has waited there
    """

    exit: int
    rows: int
    age: float


Event = TypeVar("Event", StageRun, Departure)


class Metrics:
    """What one service counts; lanes and the event loop may call it at once.

    Runs and departures are kept as they come and folded into the metrics in bulk: at exposition,
    and by whoever brings the 256th. BentoML runs prometheus_client in multiprocess mode: every
    gauge names its mode, and values are collected from all processes.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._runs: deque[StageRun] = deque()
        self._departures: deque[Departure] = deque()
        self._folding = threading.Lock()
        self._queues: Callable[[], Sequence[StageQueue]] = tuple
        self._stages: set[int] = set()  # by the exit behind them
        self._make_request_metrics()
        self._make_stage_metrics()

    def _make_request_metrics(self) -> None:
        self.requests = self._counter("requests", "Requests, by ok or why they failed", "outcome")
        self._rows = self._counter("rows", "Rows that are done with, by outcome", "outcome")
        self._refused = self._counter("refused_rows", "Rows refused, by cause", "cause")
        self._failed = self._counter("failed_rows", "Rows that failed, by reason", "reason")
        self._exits = self._counter("exits", "Rows answered, by the exit they left at", "exit")
        self._latency = self._histogram(
            "latency_seconds", "A row's time from arrival to answer", LATENCY_SECONDS, "exit"
        )
        self._deadline_answers = self._counter(
            "deadline_answers", "Rows that left early to be in time"
        )
        self._overload_answers = self._counter(
            "overload_answers", "Rows that left early as the service was overloaded"
        )
        self._shadow_rows = self._counter("shadow_rows", "Rows run to the end in the shadow")

    def _make_stage_metrics(self) -> None:
        self._score = self._histogram("score", "Scores of all rows at an exit", SCORES, "exit")
        self._stage_seconds = self._histogram(
            "stage_seconds", "Time of one run of a stage", STAGE_SECONDS, "stage"
        )
        self._batch_rows = self._histogram("batch_rows", "Rows of a batch", BATCH_ROWS, "stage")
        self._batch_fill = self._histogram(
            "batch_fill", "Rows of a batch, as a share of a full one", SHARES, "stage"
        )
        self._saved = self._counter(
            "stage_seconds_saved", "Time of stages that rows did not need against full depth"
        )
        self._cancelled = self._counter(
            "cancelled_rows",
            "Rows given up by their clients, by the stage they waited for",
            "stage",
        )
        self._queue_rows = self._gauge("queue_rows", "Rows that wait for a stage", "livesum")
        self._queue_age = self._gauge(
            "queue_age_seconds", "Time that the first row waiting for a stage has waited", "livemax"
        )

    def _counter(self, name: str, words: str, *labels: str) -> Counter:
        return Counter(f"offramp_{name}", words, labels, registry=self.registry)

    def _histogram(
        self, name: str, words: str, buckets: Sequence[float], *labels: str
    ) -> BulkHistogram:
        return BulkHistogram(
            f"offramp_{name}", words, labels, buckets=buckets, registry=self.registry
        )

    def _gauge(self, name: str, words: str, mode: Literal["livesum", "livemax"]) -> Gauge:
        return Gauge(
            f"offramp_{name}", words, ["stage"], multiprocess_mode=mode, registry=self.registry
        )

    def ran(self, run: StageRun) -> None:
        """A stage was run."""
        self._runs.append(run)
        if len(self._runs) >= FOLD_AT:
            self._fold()

    def departed(self, departure: Departure) -> None:
        """Rows were answered."""
        self._departures.append(departure)
        if len(self._departures) >= FOLD_AT:
            self._fold()

    def cancelled(self, exit: int, rows: int) -> None:
        """Rows were given up while they waited for the stage before exit `exit`."""
        self._cancelled.labels(str(exit)).inc(rows)
        self._rows.labels("cancelled").inc(rows)

    def refused(self, cause: str, rows: int) -> None:
        """Rows were not admitted. Cause: `rows`, `wait`, `deadline` or `stopping`."""
        self._refused.labels(cause).inc(rows)
        self._rows.labels("refused").inc(rows)

    def failed(self, reason: str, rows: int) -> None:
        """Admitted rows got no answer; the reason is that of their error."""
        self._failed.labels(reason).inc(rows)
        self._rows.labels("failed").inc(rows)

    def watch(self, queues: Callable[[], Sequence[StageQueue]]) -> None:
        """Ask `queues` at every exposition for the rows that wait; a stage left out has none."""
        self._queues = queues

    def exposition(self) -> bytes:
        """The metrics in Prometheus' text format, over all processes of the server."""
        self._fold()
        self._look_at_queues()
        if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
            return generate_latest(self.registry)
        everything = CollectorRegistry()
        MultiProcessCollector(everything)  # type: ignore[no-untyped-call]
        return generate_latest(everything)

    def _look_at_queues(self) -> None:
        queues = {queue.exit: queue for queue in self._queues()}
        self._stages |= queues.keys()
        for number in tuple(self._stages):  # another scrape may add one meanwhile
            queue = queues.get(number, StageQueue(number, 0, 0.0))
            self._queue_rows.labels(str(number)).set(queue.rows)
            self._queue_age.labels(str(number)).set(queue.age / 1000)

    def _fold(self) -> None:
        # what is appended meanwhile waits for the next fold
        with self._folding:
            for number, runs in _by_exit(_drained(self._runs)):
                self._stages.add(number)
                self._fold_runs(str(number), runs)
            for number, departures in _by_exit(_drained(self._departures)):
                self._fold_departures(str(number), departures)

    def _fold_runs(self, number: str, runs: Sequence[StageRun]) -> None:
        rows = np.array([run.rows for run in runs], float)
        full = np.array([run.full for run in runs], float)
        score = np.concatenate([run.score for run in runs])
        self._batch_rows.labels(number).observe_all(rows)
        self._batch_fill.labels(number).observe_all(rows / full)
        seconds = np.array([run.milliseconds for run in runs], float) / 1000
        self._stage_seconds.labels(number).observe_all(seconds)
        # rows that made the model overflow are refused; one would spoil the sum for ever
        self._score.labels(number).observe_all(score[np.isfinite(score)])

    def _fold_departures(self, number: str, departures: Sequence[Departure]) -> None:
        served = [d for d in departures if d.priority != Priority.SHADOW]
        self._shadow_rows.inc(sum(len(d.latency) for d in departures) - _rows_of(served))
        if not served:
            return
        self._rows.labels("answered").inc(_rows_of(served))
        self._exits.labels(number).inc(_rows_of(served))
        latency = np.concatenate([d.latency for d in served])
        self._latency.labels(number).observe_all(latency / 1000)
        self._saved.inc(max(0.0, sum(d.saved for d in served)) / 1000)
        self._deadline_answers.inc(_rows_of(d for d in served if d.left == Left.DEADLINE))
        self._overload_answers.inc(_rows_of(d for d in served if d.left == Left.OVERLOAD))


def _rows_of(departures: Iterable[Departure]) -> int:
    return sum(len(departure.latency) for departure in departures)


def _drained(events: deque[Event]) -> list[Event]:
    """Take what is there now; others may append meanwhile."""
    return [events.popleft() for _ in range(len(events))]


def _by_exit(events: list[Event]) -> Iterable[tuple[int, list[Event]]]:
    ordered = sorted(events, key=lambda event: event.exit)
    return [(number, list(part)) for number, part in groupby(ordered, lambda event: event.exit)]
