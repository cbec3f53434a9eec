"""What the service can do, free of any protocol: check rows and options, answer, be ready."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, contextmanager
from functools import partial

from models.bundle import EXAMPLES, Bundle
from models.encoding import RawRows
from models.errors import OfframpError, SettingsError, Unavailable
from models.live_reference import read_reference
from models.manifest import Manifest
from service.answering import Answering
from service.call import current_call, note_answers, note_model
from service.engine import Engine
from service.metrics import Metrics
from service.monitor import Monitor
from service.monitor_state import MonitorState
from service.options import DEFAULTS, Options, deadline_of, priority_of
from service.prediction import Prediction
from service.prepared_rows import PreparedRows
from service.request import Job, Routed
from service.settings import Settings
from service.statistics import Statistics, timed
from service.warmup import open_engine

WARMING_UP = "the service is warming up: try again in some seconds"

logger = logging.getLogger("bentoml.offramp")


class Dataplane:
    """Serves one bundle, once it is warm.

    manifest : of the bundle
    examples : the bundle's `examples.json`: a JSON list, empty where it carries none
    statistics : of what was answered
    monitor : compares answers with full depth, and says when to serve that instead

    Parameters
    ----------
    on_broken : called, from any thread, when nothing can be answered any more, with the reason
    """

    def __init__(
        self,
        bundle: Bundle,
        settings: Settings,
        metrics: Metrics,
        on_broken: Callable[[str], None] = lambda reason: None,
    ) -> None:
        self.manifest: Manifest = bundle.manifest
        self.examples = bundle.files.get(EXAMPLES, b"[]")
        self.statistics = Statistics(self.manifest.depth)
        self.max_rows = settings.max_rows
        self.metrics = metrics.of(self.manifest.name)
        self._on_broken = on_broken
        self._answering = Answering(bundle, settings.max_rows)
        state = settings.monitor_state
        self.monitor = Monitor(
            self.manifest,
            read_reference(bundle.files),
            self.metrics,
            settings.shadow_share,
            settings.monitor_alpha,
            MonitorState(state, self.version) if state else None,
        )
        self._open_engine = partial(open_engine, bundle, settings, self.metrics)
        self._engine: Engine | None = None
        self._entering = 0  # requests whose rows may not be in the engine yet
        self._entered = asyncio.Event()
        self._unready = WARMING_UP

    @property
    def name(self) -> str:
        """Of the model."""
        return self.manifest.name

    @property
    def version(self) -> str:
        """Of the model: the beginning of its bundle's digest."""
        return self.manifest.version

    @property
    def warming_up(self) -> bool:
        """Whether it is about to be ready."""
        return self._unready == WARMING_UP

    @property
    def ready(self) -> bool:
        """Whether requests are answered."""
        return not self.reason

    @property
    def reason(self) -> str:
        """Why requests are not answered; empty when they are."""
        engine = self._engine
        if not self._unready and engine and engine.broken:
            return f"the service is about to end: {engine.broken}"
        return self._unready

    async def warm_up(self) -> None:
        """Measure the stages on this machine, then take requests.

        Never raises: what went wrong is the reason for which the service is not ready.
        """
        try:
            engine = await asyncio.to_thread(self._open_engine)
        except Exception as error:
            known = isinstance(error, OfframpError)
            # what a library says may name paths of this machine
            told = str(error) if known else f"{type(error).__name__}, see the service's log"
            self._unready = f"the warm-up failed: {told}"
            logger.error("event=warm_up_failed reason=%r", str(error), exc_info=not known)
            if isinstance(error, SettingsError):  # as it was asked for, it can never serve
                self._on_broken(str(error))
            return
        del self._open_engine  # and with it the bytes of the bundle
        engine.on_broken = self._on_broken
        if engine.broken:
            self._on_broken(engine.broken)
        self._engine, self._unready = engine, ""
        self.metrics.on_look(self._expose)

    def take_over(self, old: Dataplane) -> None:
        """Go on with the monitor of another dataplane, where it serves the same bundle."""
        if old.version == self.version:
            self.monitor = old.monitor

    @contextmanager
    def entering(self) -> Iterator[None]:
        """Be answered in here although the dataplane is drained."""
        self._entering += 1
        try:
            yield
        finally:
            self._entering -= 1
            self._entered.set()

    async def drain(self) -> None:
        """Finish the requests that are entering or have entered, then close."""
        while self._entering:
            self._entered.clear()
            await self._entered.wait()
        await asyncio.to_thread(self.close)
        self.monitor.save()

    def close(self) -> None:
        """Refuse new requests and finish the admitted ones; after `warm_up`, not beside it."""
        self._unready = "the service is stopping: send the request to another instance"
        engine, self._engine = self._engine, None
        if engine:
            engine.close()
            self.metrics.off_look(self._expose)

    async def predict(
        self, rows: RawRows | PreparedRows, options: Options = DEFAULTS
    ) -> Prediction:
        """Answer b rows.

        Parameters
        ----------
        rows : raw, of the kind that the bundle reads: texts, encoded images, or numbers (b, ...);
            or the model's own tensors

        Raises
        ------
        InvalidInput
            Names what is wrong with the rows or the options.
        Overloaded, DeadlineExceeded, Unavailable
            See `service.engine.Engine.run`.
        """
        drawing = self.monitor.draw(len(rows), options)
        with self.counted(), self.statistics.request(), drawing as drawn:
            engine = self._warm_engine()
            arrival = engine.clock()
            options = self.monitor.in_force(options)
            job = await self._job(engine, rows, options, arrival)
            with timed(self.statistics.engine):
                routed = await engine.run(job)
            prediction = self._prediction(engine, routed, options, arrival)
            self.monitor.answered(drawn.answered(engine, job, routed))
        self.metrics.request("ok")
        return prediction

    async def stream(
        self, rows: RawRows | PreparedRows, options: Options = DEFAULTS
    ) -> AsyncGenerator[Prediction, None]:
        """Answer rows as they leave: parts of the request, every row in one of them.

        Raises what `predict` raises, before the first part or after any. Closing the generator
        cancels the rows that are left.
        """
        drawing = self.monitor.draw(len(rows), options)
        with self.counted(), self.statistics.request(), drawing as drawn:
            engine = self._warm_engine()
            arrival = engine.clock()
            options = self.monitor.in_force(options)
            job = await self._job(engine, rows, options, arrival)
            with timed(self.statistics.engine):
                async with aclosing(engine.stream(job)) as parts:
                    async for routed in parts:
                        prediction = self._prediction(engine, routed, options, arrival)
                        self.monitor.answered(drawn.answered(engine, job, routed))
                        yield prediction
        self.metrics.request("ok")

    def _expose(self) -> None:
        self.monitor.expose()

    def _warm_engine(self) -> Engine:
        if self.reason or not self._engine:
            raise Unavailable(self.reason)
        return self._engine

    async def _job(
        self, engine: Engine, rows: RawRows | PreparedRows, options: Options, arrival: float
    ) -> Job:
        thresholds = self._answering.thresholds(options, engine.exits)
        deadline, priority = deadline_of(options, arrival), priority_of(options)
        call = current_call()
        if call:
            call.rows, call.policy = len(rows), options.policy
        with self.entering(), timed(self.statistics.encoding):
            groups = await self._answering.groups(rows)
        trace, tags = (call.trace, call.tags) if call else (None, "")
        return Job(groups, thresholds, priority, deadline, options.all_exits, trace, tags)

    def _prediction(
        self, engine: Engine, routed: Routed, options: Options, arrival: float
    ) -> Prediction:
        exits, now = engine.exits, engine.clock()
        prediction = self._answering.prediction(routed, options, exits, arrival, now)
        self.statistics.answered(prediction)
        note_answers(routed.exits)
        return prediction

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Count a request that fails in here by its reason; protocols wrap their own checks too."""
        note_model(self.name, self.version)
        with self.metrics.counted():
            yield
