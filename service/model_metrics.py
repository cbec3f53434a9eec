"""What is counted of one model; lanes and the event loop may call it at once."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import TypeVar

import numpy as np

from models.errors import Cancelled, OfframpError
from service.metric_families import MetricFamilies
from service.request import Left, Priority

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


class ModelMetrics:
    """Counts for one model.

    Runs and departures are kept as they come and folded into the metrics in bulk: at exposition,
    and by whoever brings the 256th.

    families : for what is set directly, with the label `model` first
    """

    def __init__(self, families: MetricFamilies, model: str) -> None:
        self.families = families
        self.model = model
        self._runs: deque[StageRun] = deque()
        self._departures: deque[Departure] = deque()
        self._folding = threading.Lock()
        self._watched: list[Callable[[], Sequence[StageQueue]]] = []
        self._looks: list[Callable[[], None]] = []
        self._stages: set[int] = set()  # by the exit behind them
        # a series that begins at 1 has no first increase
        families.fallbacks.labels(model)
        families.state_errors.labels(model)
        for outcome in ("ok", "refused"):
            families.loads.labels(model, outcome)

    def request(self, outcome: str) -> None:
        """A request is over: `ok`, or the reason of its error."""
        self.families.requests.labels(self.model, outcome).inc()

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Count a request that fails in here by its reason."""
        try:
            yield
        except OfframpError as error:
            self.request(error.reason)
            raise
        except (asyncio.CancelledError, GeneratorExit):
            self.request(Cancelled.reason)
            raise
        except Exception:
            self.request(OfframpError.reason)
            raise

    def ran(self, run: StageRun) -> None:
        """A stage was run."""
        self._runs.append(run)
        if len(self._runs) >= FOLD_AT:
            self.fold()

    def departed(self, departure: Departure) -> None:
        """Rows were answered."""
        self._departures.append(departure)
        if len(self._departures) >= FOLD_AT:
            self.fold()

    def cancelled(self, exit: int, rows: int) -> None:
        """Rows were given up while they waited for the stage before exit `exit`."""
        self.families.cancelled.labels(self.model, str(exit)).inc(rows)
        self.families.rows.labels(self.model, "cancelled").inc(rows)

    def refused(self, cause: str, rows: int) -> None:
        """Rows were not admitted. Cause: `rows`, `wait`, `deadline` or `stopping`."""
        self.families.refused.labels(self.model, cause).inc(rows)
        self.families.rows.labels(self.model, "refused").inc(rows)

    def failed(self, reason: str, rows: int) -> None:
        """Admitted rows got no answer; the reason is that of their error."""
        self.families.failed.labels(self.model, reason).inc(rows)
        self.families.rows.labels(self.model, "failed").inc(rows)

    def watch(self, queues: Callable[[], Sequence[StageQueue]]) -> None:
        """Ask `queues` at every exposition for the rows that wait; a stage left out has none."""
        self._watched.append(queues)

    def unwatch(self, queues: Callable[[], Sequence[StageQueue]]) -> None:
        """Ask it no more."""
        if queues in self._watched:
            self._watched.remove(queues)

    def on_look(self, call: Callable[[], None]) -> None:
        """Call it before every exposition."""
        self._looks.append(call)

    def off_look(self, call: Callable[[], None]) -> None:
        """Call it no more."""
        self._looks.remove(call)

    def look(self) -> None:
        """Bring what is exposed up to date."""
        self.fold()
        for call in tuple(self._looks):
            call()
        # two engines serve one model while a new one takes over
        queues = [queue for watched in tuple(self._watched) for queue in watched()]
        self._stages |= {queue.exit for queue in queues}
        for number in tuple(self._stages):  # another scrape may add one meanwhile
            mine = [queue for queue in queues if queue.exit == number]
            names = self.model, str(number)
            self.families.queue_rows.labels(*names).set(sum(queue.rows for queue in mine))
            age = max((queue.age for queue in mine), default=0.0)
            self.families.queue_age.labels(*names).set(age / 1000)

    def fold(self) -> None:
        """Count the runs and departures that were kept."""
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
        names = self.model, number
        self.families.batch_rows.labels(*names).observe_all(rows)
        self.families.batch_fill.labels(*names).observe_all(rows / full)
        seconds = np.array([run.milliseconds for run in runs], float) / 1000
        self.families.stage_seconds.labels(*names).observe_all(seconds)
        # rows that made the model overflow are refused; one would spoil the sum for ever
        self.families.score.labels(*names).observe_all(score[np.isfinite(score)])

    def _fold_departures(self, number: str, departures: Sequence[Departure]) -> None:
        families, model = self.families, self.model
        served = [d for d in departures if d.priority != Priority.SHADOW]
        shadows = sum(len(d.latency) for d in departures) - _rows_of(served)
        families.shadow_rows.labels(model).inc(shadows)
        if not served:
            return
        families.rows.labels(model, "answered").inc(_rows_of(served))
        families.exits.labels(model, number).inc(_rows_of(served))
        latency = np.concatenate([d.latency for d in served])
        families.latency.labels(model, number).observe_all(latency / 1000)
        families.saved.labels(model).inc(max(0.0, sum(d.saved for d in served)) / 1000)
        late, shallow = (
            _rows_of(d for d in served if d.left == left) for left in (Left.DEADLINE, Left.OVERLOAD)
        )
        families.deadline_answers.labels(model).inc(late)
        families.overload_answers.labels(model).inc(shallow)


def _rows_of(departures: Iterable[Departure]) -> int:
    return sum(len(departure.latency) for departure in departures)


def _drained(events: deque[Event]) -> list[Event]:
    """Take what is there now; others may append meanwhile."""
    return [events.popleft() for _ in range(len(events))]


def _by_exit(events: list[Event]) -> Iterable[tuple[int, list[Event]]]:
    ordered = sorted(events, key=lambda event: event.exit)
    return [(number, list(part)) for number, part in groupby(ordered, lambda event: event.exit)]
