"""What the engine takes for the doors' rows, in this process and without any protocol."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter
from types import TracebackType

import numpy as np
from protocol_cores import pin

from models.bundle import Bundle
from service.dataplane import Dataplane
from service.metrics import Metrics
from service.settings import Settings


class BareEngines:
    """Warm dataplanes over bundles.

    Parameters
    ----------
    bundles : by any name
    cores : those that the servers have
    """

    def __init__(self, bundles: Mapping[str, Bundle], cores: Collection[int]) -> None:
        # lanes inherit the cores of the thread that opens them
        self._thread = ThreadPoolExecutor(1, initializer=pin, initargs=(cores,))
        self._runner = asyncio.Runner()
        self._planes = {
            name: self._thread.submit(self._open, bundle).result()
            for name, bundle in bundles.items()
        }

    def __enter__(self) -> BareEngines:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for plane in self._planes.values():
            plane.close()
        self._thread.submit(self._runner.close).result()
        self._thread.shutdown()

    def milliseconds(self, name: str, rows: np.ndarray, warm: int, requests: int) -> float:
        """Median of `Dataplane.predict` over requests, one after the other.

        warm : requests before them that do not count
        """
        plane = self._planes[name]
        return self._thread.submit(self._measure, plane, rows, warm, requests).result()

    def peer_milliseconds(self, rows: np.ndarray, warm: int, requests: int) -> float:
        """Median of the computation that stands in for an engine in the peers."""
        return self._thread.submit(_sum_milliseconds, rows, warm, requests).result()

    def _open(self, bundle: Bundle) -> Dataplane:
        plane = Dataplane(bundle, Settings(bundle=str(bundle.path)), Metrics())
        self._runner.run(plane.warm_up())
        if not plane.ready:
            raise SystemExit(f"{bundle.path}: {plane.reason}")
        return plane

    def _measure(self, plane: Dataplane, rows: np.ndarray, warm: int, requests: int) -> float:
        async def answer() -> float:
            times = np.empty(warm + requests)
            for place in range(len(times)):
                begun = perf_counter()
                await plane.predict(rows)
                times[place] = perf_counter() - begun
            return float(np.median(times[warm:])) * 1e3

        return self._runner.run(answer())


def _sum_milliseconds(rows: np.ndarray, warm: int, requests: int) -> float:
    times = np.empty(warm + requests)
    for place in range(len(times)):
        begun = perf_counter()
        float(rows.sum())
        times[place] = perf_counter() - begun
    return float(np.median(times[warm:])) * 1e3
