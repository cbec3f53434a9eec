"""A wall clock that jumps while the service runs.

libfaketime was tried first: it takes a lock and parses its file at every reading, of which ONNX
Runtime makes hundreds for each request, and the service was a hundred times slower under it.
"""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import aiohttp
import grpc
from checked_rows import JSON, CheckedRows
from faults_site import Finding, Site, Skipped
from tritonclient.grpc import service_pb2_grpc

HOUR, DAY = 3600, 86_400
JUMPS = (HOUR, -HOUR, DAY, -DAY)
"""Seconds off the true time, one after the other, then none."""
SOURCE = Path(__file__).resolve().parent / "jumping_clock.c"
CLOCK, LIBRARY = "clock", "jumping_clock.so"
"""In a fault's folder: by how many seconds the server's clock is off, and what makes it so."""
SEEN_SECONDS = 20.0
DEADLINE_MS = 5000
CALLS = 8
"""That are on their way when the clock jumps, at each port."""


def faked_clock(folder: Path) -> dict[str, str]:
    """Environment of a server whose wall clock follows the file `CLOCK` of a folder.

    Raises
    ------
    Skipped
        When there is no C compiler.
    """
    compiler = shutil.which("cc")
    if not compiler:
        raise Skipped("needs a C compiler, `cc`")
    library = folder / LIBRARY
    options = ("-shared", "-fPIC", "-O2", "-o", str(library), str(SOURCE), "-ldl")
    subprocess.run([compiler, *options], check=True)
    (folder / CLOCK).write_bytes(bytes(8))
    return {"LD_PRELOAD": str(library), "JUMPING_CLOCK": str(folder / CLOCK)}


def clock_jumps(place: Site) -> Finding:
    """The clock goes to and fro; requests with deadlines are on their way."""
    finding, server = Finding(), place.server
    late = {"offramp_deadline_answers_total": {}, "offramp_requests_total": {"outcome": "deadline"}}
    before = {name: server.metric(name, **labels) for name, labels in late.items()}
    latency, rows = _latencies(place)
    asked = 0
    for number in range(place.plan.rounds):
        for off in (*JUMPS, 0):
            asked += asyncio.run(_jump(place, off, finding))
            if number == 0:
                finding.expect(_shows(place, off), f"the server's clock is not {off} s off")
            age = server.metric("offramp_queue_age_seconds")
            finding.expect(0 <= age < HOUR / 2, f"rows are said to wait for {age} s")
    for name, labels in late.items():
        missed = server.metric(name, **labels) - before[name]
        finding.expect(not missed, f"{missed:.0f} deadlines were missed")
    later, more = _latencies(place)
    mean = (later - latency) / max(1.0, more - rows)
    finding.expect(0 < mean < DEADLINE_MS / 1000, f"rows are said to take {mean} s")
    jumps = place.plan.rounds * (len(JUMPS) + 1)
    finding.figures.append(f"{jumps} jumps among {asked} requests with a deadline: all right")
    return finding


async def _jump(place: Site, off: int, finding: Finding) -> int:
    """Jump among calls with a deadline; how many they were."""
    rows, server = place.rows, place.server
    async with (
        aiohttp.ClientSession(server.url) as session,
        grpc.aio.insecure_channel(f"127.0.0.1:{server.grpc}") as channel,
    ):
        infer = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer
        calls = [_predict(session, rows, number) for number in range(CALLS)]
        calls += [_infer(infer, rows, number) for number in range(CALLS)]
        tasks = [asyncio.create_task(call) for call in calls]
        await asyncio.sleep(0.002)
        _set_clock(place.folder, off)
        for outcome in await asyncio.gather(*tasks):
            finding.expect(not outcome, f"while the clock goes {off} s off: {outcome}")
    return len(tasks)


async def _predict(session: aiohttp.ClientSession, rows: CheckedRows, number: int) -> str:
    body = rows.predict_body([number], deadline_ms=DEADLINE_MS)
    async with session.post("/predict", data=body, headers=JSON) as response:
        if response.status != 200:
            return f"{response.status} {await response.text()}"
        return "" if rows.is_prediction([number], await response.json()) else "wrong"


async def _infer(infer: Any, rows: CheckedRows, number: int) -> str:
    try:
        answer = await infer(rows.infer_request([number]), timeout=DEADLINE_MS / 1000)
    except grpc.aio.AioRpcError as error:
        return f"{error.code().name} {error.details()}"
    return "" if rows.is_inference([number], answer) else "wrong"


def _set_clock(folder: Path, off: int) -> None:
    with (folder / CLOCK).open("r+b", buffering=0) as file:  # the server has it mapped
        file.write(off.to_bytes(8, sys.byteorder, signed=True))


def _shows(place: Site, off: int) -> bool:
    """Whether the server's answers soon carry such a date."""
    end = time.monotonic() + SEEN_SECONDS
    while time.monotonic() < end:
        shown = parsedate_to_datetime(place.server.get("/livez").headers["date"])
        if abs(shown - datetime.now(UTC) - timedelta(seconds=off)) < timedelta(seconds=HOUR / 2):
            return True
        time.sleep(0.1)
    return False


def _latencies(place: Site) -> tuple[float, float]:
    """Seconds that all rows took together, and how many rows."""
    name = "offramp_latency_seconds"
    return place.server.metric(f"{name}_sum"), place.server.metric(f"{name}_count")
