"""The models of one server, by name: which are there, and how they are loaded and unloaded."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from models.errors import NotFound, OfframpError, Unavailable
from service.dataplane import Dataplane
from service.in_flight import InFlight
from service.lanes import STOPPING
from service.model_metrics import ModelMetrics
from service.tensors import brief

logger = logging.getLogger("bentoml.offramp")

OnBroken = Callable[[str], None]
OpenModel = Callable[[OnBroken], Dataplane]
"""Reads and verifies a bundle, and gives the dataplane over it, cold."""
By = Literal["call", "signal", "watch"]
"""Who has a model loaded: a client, an operator, or the watch over its bundle."""


@dataclass(frozen=True)
class ModelState:
    """One model of the index.

    reason : why it is not ready; empty where it is
    note : what operators should know although it is ready; mostly empty
    """

    name: str
    version: str
    state: Literal["READY", "LOADING", "UNAVAILABLE"]
    reason: str
    note: str = ""

    @property
    def told(self) -> str:
        """What there is to say of it."""
        return self.reason or self.note


@dataclass
class _Model:
    open: OpenModel
    plane: Dataplane | None = None
    metrics: ModelMetrics = field(init=False)
    changing: asyncio.Lock = field(default_factory=asyncio.Lock)


class Repository:
    """Models that were there when the server started; each can be unloaded and loaded again.

    in_flight : the requests that the doors over these models answer

    Parameters
    ----------
    openers : one for each model; the first is the one that requests mean when they name none
    give_up : called, from any thread, when a model that is served can answer nothing any more
    settled : called when all models are warm, and whenever another one is served or none any more
    """

    def __init__(
        self,
        openers: list[OpenModel],
        give_up: OnBroken = lambda reason: None,
        settled: Callable[[], None] = lambda: None,
    ) -> None:
        self.in_flight = InFlight()
        self._give_up = give_up
        self._settled = settled
        self._models: dict[str, _Model] = {}
        self._changes: set[asyncio.Task[None]] = set()
        for open_model in openers:
            model = _Model(open_model)
            model.plane = self._open(model)
            model.metrics = model.plane.metrics
            self._models[model.plane.name] = model

    @property
    def names(self) -> tuple[str, ...]:
        """Of the models, in the order of their openers."""
        return tuple(self._models)

    @property
    def default(self) -> str:
        """The name of the model that requests mean when they name none."""
        return next(iter(self._models))

    @property
    def reason(self) -> str:
        """Why some model cannot answer; empty when all can."""
        if self.in_flight.stopping:
            return STOPPING
        return next((state.reason for state in self.index() if state.reason), "")

    def model(self, name: str, version: str = "") -> Dataplane:
        """The dataplane of a loaded model, ready or not; `using` gives one to answer with.

        Raises
        ------
        NotFound
            When there is no such model, or no such version of it.
        Unavailable
            When it is unloaded.
        """
        plane = self._find(name).plane
        if plane is None:
            raise Unavailable(f"model {name!r} is not loaded: load it, or ask another server")
        if version not in ("", plane.version):
            raise NotFound(
                f"model {name!r}: found version {brief(version)}, expected {plane.version!r} or "
                "none"
            )
        return plane

    @contextmanager
    def using(self, name: str, version: str = "") -> Iterator[Dataplane]:
        """The same, kept open in here although another one may take its place.

        It raises what `model` raises.
        """
        plane = self.model(name, version)
        with plane.entering():
            yield plane

    def reason_of(self, plane: Dataplane) -> str:
        """Why a loaded model cannot answer; empty when it can."""
        return STOPPING if self.in_flight.stopping else plane.reason

    def index(self) -> list[ModelState]:
        """What there is, and in which state."""
        return [self._state(name, model) for name, model in self._models.items()]

    async def start(self) -> None:
        """Warm all models up; see `reason` for what went wrong."""
        for model in self._models.values():
            async with model.changing:
                if model.plane and not self.in_flight.stopping:
                    await model.plane.warm_up()
        self._settled()

    def stop(self) -> None:
        """Be ready for no request any more, and load nothing."""
        self.in_flight.stop()

    async def close(self) -> None:
        """Finish the admitted requests of all models; nothing is loaded any more."""
        self.stop()
        for model in self._models.values():
            async with model.changing:
                if model.plane:
                    await model.plane.drain()

    async def load(self, name: str, by: By = "call") -> None:
        """Read the model's bundle again and serve it; the one before serves until it is warm.

        Raises
        ------
        NotFound
            When there is no such model.
        Unavailable
            When the bundle is no good; what was served before still is.
        """
        await self._to_its_end(self._load(name, self._find(name), by))

    async def unload(self, name: str) -> None:
        """Answer what was admitted, then give the model's memory back.

        Raises
        ------
        NotFound
            When there is no such model.
        """
        await self._to_its_end(self._unload(name, self._find(name)))

    async def _to_its_end(self, change: Coroutine[Any, Any, None]) -> None:
        """Await a change; it goes on when its client leaves: half of it would leave threads."""
        task = asyncio.create_task(change)
        self._changes.add(task)
        task.add_done_callback(self._changes.discard)
        await asyncio.shield(task)

    async def _load(self, name: str, model: _Model, by: By) -> None:
        async with model.changing:
            if self.in_flight.stopping:
                raise Unavailable(STOPPING)
            logger.info("event=reload model=%s by=%s", name, by)
            try:
                fresh = await self._opened(name, model)
            except Unavailable:
                model.metrics.families.loads.labels(name, "refused").inc()
                raise
            model.metrics.families.loads.labels(name, "ok").inc()
            old, model.plane = model.plane, fresh
            if old:
                fresh.take_over(old)
            logger.info("event=loaded model=%s version=%s", name, fresh.version)
            if old:
                await old.drain()
            del old
            self._settled()

    async def _unload(self, name: str, model: _Model) -> None:
        async with model.changing:
            old, model.plane = model.plane, None
            if old:
                await old.drain()
            del old
            self._settled()
        logger.info("event=unloaded model=%s", name)

    def _find(self, name: str) -> _Model:
        if name not in self._models:
            known = ", ".join(repr(known) for known in self._models)
            raise NotFound(f"found no model {brief(name)}, expected {known}")
        return self._models[name]

    def _open(self, model: _Model) -> Dataplane:
        def broken(reason: str) -> None:
            if model.plane is plane:
                self._give_up(reason)

        plane = model.open(broken)
        return plane

    async def _opened(self, name: str, model: _Model) -> Dataplane:
        try:
            fresh = await asyncio.to_thread(self._open, model)
            if fresh.name != name:
                raise Unavailable(f"its bundle is now that of a model {brief(fresh.name)}")
            await fresh.warm_up()
            if not fresh.ready:
                await asyncio.to_thread(fresh.close)
                raise Unavailable(fresh.reason)
        except Exception as error:
            known = isinstance(error, OfframpError)
            # it may name paths of this machine: for the log, not for the client
            told = "event=load_failed model=%s reason=%r"
            logger.error(told, name, str(error), exc_info=not known)
            still = "the one before is served" if model.plane else "none is served"
            raise Unavailable(
                f"model {name!r} was not loaded, {still}: see the service's log for what is wrong "
                "with its bundle"
            ) from error
        return fresh

    def _state(self, name: str, model: _Model) -> ModelState:
        plane = model.plane
        if plane is None:
            return ModelState(name, "", "UNAVAILABLE", f"model {name!r} is unloaded")
        reason = self.reason_of(plane)
        state: Literal["READY", "LOADING", "UNAVAILABLE"] = "UNAVAILABLE" if reason else "READY"
        if plane.warming_up and not self.in_flight.stopping:
            state = "LOADING"
        return ModelState(name, plane.version, state, reason, plane.monitor.note)
