"""The models of one server, by name: which are there, and how they are loaded and unloaded."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Literal

from models.errors import NotFound, OfframpError, Unavailable
from service.dataplane import Dataplane
from service.tensors import brief

logger = logging.getLogger("bentoml.offramp")

OnBroken = Callable[[str], None]
OpenModel = Callable[[OnBroken], Dataplane]
"""Reads and verifies a bundle, and gives the dataplane over it, cold."""


@dataclass(frozen=True)
class ModelState:
    """One model of the index; `reason` is empty where it is ready."""

    name: str
    version: str
    state: Literal["READY", "LOADING", "UNAVAILABLE"]
    reason: str


@dataclass
class _Model:
    plane: Dataplane | None
    open: OpenModel
    changing: asyncio.Lock = field(default_factory=asyncio.Lock)


class Repository:
    """Models that were there when the server started; each can be unloaded and loaded again.

    Parameters
    ----------
    openers : one for each model; the first is the one that requests mean when they name none
    give_up : called, from any thread, when a model that is served can answer nothing any more
    """

    def __init__(self, openers: list[OpenModel], give_up: OnBroken = lambda reason: None) -> None:
        self._give_up = give_up
        self._models: dict[str, _Model] = {}
        self._changes: set[asyncio.Task[None]] = set()
        self._closed = False
        for open_model in openers:
            model = _Model(None, open_model)
            model.plane = self._open(model)
            self._models[model.plane.name] = model

    @property
    def default(self) -> str:
        """The name of the model that requests mean when they name none."""
        return next(iter(self._models))

    @property
    def reason(self) -> str:
        """Why some model cannot answer; empty when all can."""
        return next((state.reason for state in self.index() if state.reason), "")

    def model(self, name: str, version: str = "") -> Dataplane:
        """The dataplane of a loaded model, ready or not.

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

    def index(self) -> list[ModelState]:
        """What there is, and in which state."""
        return [_state(name, model) for name, model in self._models.items()]

    async def start(self) -> None:
        """Warm all models up; see `reason` for what went wrong."""
        for model in self._models.values():
            async with model.changing:
                if model.plane:
                    await model.plane.warm_up()

    async def close(self) -> None:
        """Finish the admitted requests of all models; nothing is loaded any more."""
        self._closed = True
        for model in self._models.values():
            async with model.changing:
                if model.plane:
                    await asyncio.to_thread(model.plane.close)

    async def load(self, name: str) -> None:
        """Read the model's bundle again and serve it; the one before serves until it is warm.

        Raises
        ------
        NotFound
            When there is no such model.
        Unavailable
            When the bundle is no good; what was served before still is.
        """
        await self._to_its_end(self._load(name, self._find(name)))

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

    async def _load(self, name: str, model: _Model) -> None:
        async with model.changing:
            fresh = await self._opened(name, model)
            old, model.plane = model.plane, fresh
            if old:
                await old.drain()
        logger.info("event=loaded model=%s version=%s", name, fresh.version)

    async def _unload(self, name: str, model: _Model) -> None:
        async with model.changing:
            old, model.plane = model.plane, None
            if old:
                await old.drain()
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
        if self._closed:
            raise Unavailable("the service is stopping: send the request to another instance")
        try:
            fresh = await asyncio.to_thread(self._open, model)
            if fresh.name != name:
                raise Unavailable(f"its bundle is now that of a model {brief(fresh.name)}")
            await fresh.warm_up()
            if not fresh.ready:
                await asyncio.to_thread(fresh.close)
                raise Unavailable(fresh.reason)
        except OfframpError as error:
            # it may name paths of this machine: for the log, not for the client
            logger.error("event=load_failed model=%s reason=%r", name, str(error))
            still = "the one before is served" if model.plane else "none is served"
            raise Unavailable(
                f"model {name!r} was not loaded, {still}: see the service's log for what is wrong "
                "with its bundle"
            ) from error
        return fresh


def _state(name: str, model: _Model) -> ModelState:
    if model.plane is None:
        return ModelState(name, "", "UNAVAILABLE", f"model {name!r} is unloaded")
    plane = model.plane
    state: Literal["READY", "LOADING", "UNAVAILABLE"] = "UNAVAILABLE"
    if plane.ready:
        state = "READY"
    elif plane.warming_up:
        state = "LOADING"
    return ModelState(name, plane.version, state, plane.reason)
