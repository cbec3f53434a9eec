from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any
from weakref import WeakKeyDictionary

import pytest
from starlette.testclient import TestClient

from models.bundle import Bundle
from models.runtime import StageRuntime
from service.calls import Calls
from service.dataplane import Dataplane
from service.http import create_app
from service.http_calls import HttpCalls
from service.locks import Locks
from service.metrics import Metrics
from service.model_metrics import ModelMetrics
from service.repository import Repository
from service.settings import Settings

LIMITS = {"max_rows": 64, "max_body_bytes": 2**20, "shadow_share": 0.0}
SERVERS: WeakKeyDictionary[Dataplane, Metrics] = WeakKeyDictionary()
"""The metrics of the server around a dataplane."""


def counted(metrics: ModelMetrics, name: str, **labels: str) -> float:
    """The value of one series of a model; 0 where there is none."""
    metrics.look()
    series = {"model": metrics.model, **labels}
    return metrics.families.registry.get_sample_value(f"offramp_{name}", series) or 0.0


def cold_dataplane(
    bundle: Bundle, on_broken: Callable[[str], None] = print, **changed: Any
) -> Dataplane:
    """One lane, before its warm-up."""
    chosen = {"lanes": 1, "threads": 1, **LIMITS, **changed}
    metrics = Metrics()
    plane = Dataplane(bundle, Settings(bundle=str(bundle.path), **chosen), metrics, on_broken)
    SERVERS[plane] = metrics
    return plane


def app_over(plane: Dataplane, calls: Calls | None = None, **changed: Any) -> HttpCalls:
    """The HTTP application over one dataplane, with the limits of `cold_dataplane`."""
    chosen = {**LIMITS, "max_rows": plane.max_rows, **changed}
    repository = Repository([lambda on_broken: plane])
    settings = Settings(**chosen)
    return create_app(repository, SERVERS[plane], settings, Locks(settings), calls)


@asynccontextmanager
async def serving(bundle: Bundle, **changed: Any) -> AsyncIterator[Dataplane]:
    """A warm dataplane of its own."""
    plane = cold_dataplane(bundle, **changed)
    await plane.warm_up()
    assert plane.ready, plane.reason
    yield plane
    await asyncio.to_thread(plane.close)


@pytest.fixture(scope="session")
def dataplane(bundle: Bundle) -> Iterator[Dataplane]:
    plane = cold_dataplane(bundle)
    asyncio.run(plane.warm_up())
    assert plane.ready, plane.reason
    yield plane
    plane.close()


@pytest.fixture(scope="session")
def client(dataplane: Dataplane) -> Iterator[TestClient]:
    with TestClient(app_over(dataplane), raise_server_exceptions=False) as client:
        yield client


class Gate:
    """Holds every run of the stages from `stage` on until it is opened."""

    def __init__(self, stage: int) -> None:
        self.stage = stage
        self.reached = threading.Event()
        self.opened = threading.Event()

    def wait(self, stage: int) -> None:
        if stage >= self.stage:
            self.reached.set()
            assert self.opened.wait(timeout=60)


@pytest.fixture
def gates(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Gate]]:
    """Every stage run of every engine passes the gates in this list first."""
    standing: list[Gate] = []
    real = StageRuntime.run

    def run(self: StageRuntime, stage: int, carry: Any) -> Any:
        for gate in standing:
            gate.wait(stage)
        return real(self, stage, carry)

    monkeypatch.setattr(StageRuntime, "run", run)
    yield standing
    for gate in standing:
        gate.opened.set()
