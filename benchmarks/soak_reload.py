"""A server whose bundle is exchanged under load, by every way in which it is loaded again."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper
from reliability_server import ServiceProcess
from soak_client import Outcome
from soak_load import Tally, told
from soak_memory import MIB
from soak_oracle import draw_pool
from soak_site import Finding, Plan, Site, capacity

from models.bundle import MODEL, Bundle, write_bundle

SHARE = 0.3
"""Of the capacity: warming up takes a core for itself."""
WAYS = ("call", "SIGHUP", "watch")
WATCH_SECONDS = 3.0
LOADED_SECONDS = 60.0
LONG_SECONDS = 3600.0
"""Of a load that is stopped before."""
LOOK_SECONDS = 0.05
CHANGE = 0.3
"""Of every weight of the other bundle, as a standard deviation of what it was."""


async def reloads(site: Site, plan: Plan) -> Finding:
    """Two versions in turn: nothing fails, and no answer is of both."""
    versions = await asyncio.to_thread(two_versions, site.bundle, site.folder / "versions")
    served = replace(site, bundle=versions[0], oracles=[], rows=[])
    rows, oracles = draw_pool(versions, len(site.rows))
    served = replace(served, rows=rows, oracles=oracles)
    tally, over = Tally(), asyncio.Event()
    done: list[float] = []
    settings: dict[str, Any] = {
        "OFFRAMP_REPOSITORY_CALLS": "true",
        "OFFRAMP_WATCH_SECONDS": str(WATCH_SECONDS),
        "OFFRAMP_SHADOW_SHARE": "0",  # nobody has certified the other version
    }
    async with (
        served.server(**settings) as server,
        served.load(server.http, server.grpc) as load,
        told("reload", tally, lambda: f", {len(done)} reloads"),
    ):
        rate = SHARE * await capacity(load, plan.capacity)
        loading = asyncio.create_task(load.open(rate, LONG_SECONDS, tally, stop=over))
        memory = [server.worker.memory_info().rss / MIB]
        try:
            for number, way in zip(range(plan.reloads), cycle(WAYS), strict=False):
                done.append(await _reload(server, versions, (number + 1) % 2, way))
            memory.append(server.worker.memory_info().rss / MIB)
        finally:
            over.set()
            await loading
    return _reloaded(tally, done, memory)


async def _reload(
    server: ServiceProcess, versions: Sequence[Bundle], number: int, way: str
) -> float:
    """Exchange the bundle and have it loaded: the seconds until the new version answers."""
    bundle, begun = versions[number], time.perf_counter()
    path = f"/v2/models/{bundle.manifest.name}"
    wanted = [bundle.manifest.version]
    await asyncio.to_thread(
        write_bundle, versions[0].path, bundle.manifest, bundle.files, force=True
    )
    if way == "call":
        url = f"/v2/repository/models/{bundle.manifest.name}/load"
        answer = await asyncio.to_thread(server.post, url)
        answer.raise_for_status()
    elif way == "SIGHUP":
        os.kill(server.process.pid, signal.SIGHUP)
    while (await asyncio.to_thread(server.get, path)).json()["versions"] != wanted:
        if time.perf_counter() - begun > LOADED_SECONDS:
            raise RuntimeError(f"found that {way} did not load {wanted}, see {server.log}")
        await asyncio.sleep(LOOK_SECONDS)
    return time.perf_counter() - begun


def _reloaded(tally: Tally, done: Sequence[float], memory: Sequence[float]) -> Finding:
    bad = tally.total - tally.of(Outcome.ANSWERED)
    each = " and ".join(f"{count:,}" for version, count in tally.versions.items() if version)
    return Finding(
        "reload under load",
        f"{len(done)} times, by repository call, SIGHUP and watching in turn, at {SHARE:.0%} of "
        "capacity: 0 failed requests, no answer of a mixture of versions",
        f"{tally.total:,} requests: {tally.of(Outcome.WRONG)} wrong or of two versions, "
        f"{bad - tally.of(Outcome.WRONG)} failed; {each} answers said one or the other version; a "
        f"reload took {np.median(done):.1f} s, {max(done):.1f} s at most; memory {memory[0]:.0f} "
        f"MiB before and {memory[-1]:.0f} MiB after",
        not bad and sum(map(bool, tally.versions)) == 2,
        True,
        tally,
    )


def two_versions(bundle: Bundle, folder: Path) -> list[Bundle]:
    """The bundle, and one of the same name with other weights."""
    model = onnx.load_model_from_string(bundle.model)
    rng = np.random.default_rng(0)
    for tensor in model.graph.initializer:
        weights = numpy_helper.to_array(tensor)
        if weights.dtype == np.float32 and weights.ndim > 1:
            noise = CHANGE * weights.std() * rng.normal(size=weights.shape)
            changed = numpy_helper.from_array((weights + noise).astype(np.float32), tensor.name)
            tensor.CopyFrom(changed)
    files = {**bundle.files, MODEL: model.SerializeToString()}
    return [
        write_bundle(folder / "one", bundle.manifest, bundle.files, force=True),
        write_bundle(folder / "other", bundle.manifest, files, force=True),
    ]
