"""The bystanders themselves: a light load of checked requests, a line of output for each.

    python benchmarks/bystander_load.py ROWS.npz HTTP_PORT GRPC_PORT

Goes on until its input ends. `bystanders.py` starts it and reads what it prints.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import numpy as np
from checked_rows import JSON, CheckedRows
from tritonclient.grpc import service_pb2_grpc

OK, WRONG, TIMEOUT, CLOSED = "ok", "wrong", "timeout", "closed"
GAPS = {"HTTP": 0.05, "new connection": 0.2, "gRPC": 0.05}
"""Seconds between two requests of each door; the second opens a connection for each."""
LIMIT_SECONDS = 10.0
MOST_ROWS = 4

Ask = Callable[[Sequence[int]], Awaitable[tuple[str, str]]]
"""Places of rows -> outcome, and what was said beside it."""


class Asking:
    """Who asks at all doors.

    rows : with their answers
    http, grpc : ports
    """

    def __init__(self, rows: CheckedRows, http: int, grpc_port: int) -> None:
        self._rows = rows
        self._url = f"http://127.0.0.1:{http}/predict"
        self._address = f"127.0.0.1:{grpc_port}"

    async def go_on(self) -> None:
        """Ask until cancelled."""
        limit = aiohttp.ClientTimeout(LIMIT_SECONDS)
        fresh = aiohttp.TCPConnector(force_close=True)
        async with (
            aiohttp.ClientSession(timeout=limit) as kept,
            aiohttp.ClientSession(timeout=limit, connector=fresh) as new,
            grpc.aio.insecure_channel(self._address) as channel,
        ):
            infer = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer
            await asyncio.gather(
                self._door("HTTP", lambda places: self._predict(kept, places)),
                self._door("new connection", lambda places: self._predict(new, places)),
                self._door("gRPC", lambda places: self._infer(infer, places)),
            )

    async def _door(self, name: str, ask: Ask) -> None:
        random = np.random.default_rng(list(GAPS).index(name))
        begun = time.monotonic()
        for number in count():
            await asyncio.sleep(max(0.0, begun + number * GAPS[name] - time.monotonic()))
            places = random.integers(0, len(self._rows), random.integers(1, MOST_ROWS + 1))
            sent = time.monotonic()
            if sent - begun - number * GAPS[name] > 1.0:  # what was missed is not made up for
                begun = sent - number * GAPS[name]
            outcome, said = await ask(places.tolist())
            milliseconds = (time.monotonic() - sent) * 1000
            print(json.dumps([name, sent, milliseconds, outcome, said]), flush=True)

    async def _predict(
        self, session: aiohttp.ClientSession, places: Sequence[int]
    ) -> tuple[str, str]:
        try:
            body = self._rows.predict_body(places)
            async with session.post(self._url, data=body, headers=JSON) as response:
                if response.status != 200:
                    return str(response.status), await response.text()
                answer = await response.json()
        except TimeoutError:
            return TIMEOUT, ""
        except aiohttp.ClientError as error:
            return CLOSED, repr(error)
        return _checked(self._rows.is_prediction(places, answer), answer)

    async def _infer(self, infer: Any, places: Sequence[int]) -> tuple[str, str]:
        try:
            answer = await infer(self._rows.infer_request(places), timeout=LIMIT_SECONDS)
        except grpc.aio.AioRpcError as error:
            if error.code() == grpc.StatusCode.DEADLINE_EXCEEDED:
                return TIMEOUT, error.details() or ""
            return error.code().name, error.details() or ""
        return _checked(self._rows.is_inference(places, answer), answer)


def _checked(right: bool, answer: object) -> tuple[str, str]:
    return (OK, "") if right else (WRONG, str(answer)[:400])


async def main(rows: Path, http: int, grpc_port: int) -> None:
    asking = asyncio.create_task(Asking(CheckedRows.load(rows), http, grpc_port).go_on())
    over = asyncio.create_task(asyncio.to_thread(sys.stdin.read))
    await asyncio.wait((asking, over), return_when=asyncio.FIRST_COMPLETED)
    asking.cancel()
    await asyncio.wait((asking,))
    if not asking.cancelled():
        asking.result()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])))
