"""Traffic of all kinds for one server: what can become of a row or a bundle, becomes of some."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from models.bundle import MODEL, Bundle

HELD, BUG = "held", "bug"
"""Files beside the faulty service: stages behind the first wait; answers cannot be checked."""
MOST_ROWS, ROOM = 64, 128
HUGE = 1e6
FAULTY_SERVICE = f'''
import time
from pathlib import Path

from models.runtime import StageRuntime
from service import answering
from service.app import Offramp

HERE, real_run, real_check = Path(__file__).parent, StageRuntime.run, answering.check_answers


def run(self, stage, carry):
    while stage > 1 and (HERE / "{HELD}").exists():
        time.sleep(0.01)
    if stage == 1 and carry[0].max() >= {HUGE}:
        raise ValueError("a row that cannot be computed")
    return real_run(self, stage, carry)


def check_answers(routed, exits):
    if (HERE / "{BUG}").exists():
        raise RuntimeError("a bug")
    real_check(routed, exits)


StageRuntime.run, answering.check_answers = run, check_answers
'''
SETTINGS = {
    "OFFRAMP_LANES": "1",
    "OFFRAMP_THREADS": "1",
    "OFFRAMP_MAX_ROWS": str(MOST_ROWS),
    "OFFRAMP_MAX_QUEUE_ROWS": str(ROOM),
    "OFFRAMP_OVERLOAD": "shallow",
    "OFFRAMP_SHADOW_SHARE": "1",
    "OFFRAMP_REPOSITORY_CALLS": "true",
}


@dataclass(frozen=True)
class Traffic:
    """Sends it; every answer is checked to be of the kind that was meant.

    folder : of the faulty service
    rows : at least `MOST_ROWS`, of the bundle's kind
    """

    url: str
    folder: Path
    bundle: Bundle
    rows: np.ndarray
    headers: dict[str, str]

    async def send(self) -> None:
        """Rows of every outcome."""
        async with self._client() as client:
            # first, as no shadow row runs that could be held instead
            with self._there_is(HELD):
                overloaded = await self._send_while_held(client)
            answers = await asyncio.gather(*overloaded)
            assert "overload" in {row.get("left") for answer in answers for row in answer["rows"]}
            for start in range(0, 8 * 16, 16):
                await self._predict(client, self.rows[start : start + 16])
            for number in range(1, self.bundle.manifest.depth + 1):
                await self._predict(client, self.rows[:4], policy=f"exit:{number}")
            await self._predict(client, self.rows[:4], status=400, policy="none")
            await self._predict(client, np.full_like(self.rows[:1], HUGE), status=400)
            await self._predict(client, self.rows[:4], status=504, deadline_ms=1e-6)
            with self._there_is(BUG):
                await self._predict(client, self.rows[:4], status=500)

    async def change_bundles(self) -> None:
        """Load the bundle again, whole and damaged."""
        name, model = self.bundle.manifest.name, self.bundle.path / MODEL
        whole = model.read_bytes()
        async with self._client() as client:
            path = f"/v2/repository/models/{name}/load"
            assert (await client.post(path)).status_code == 200
            try:
                model.write_bytes(whole[:-1])
                assert (await client.post(path)).status_code == 503
            finally:
                model.write_bytes(whole)

    async def reset_monitor(self) -> None:
        """Which writes its state."""
        async with self._client() as client:
            response = await client.post(
                "/monitor/reset", json={"model": self.bundle.manifest.name}
            )
            assert response.status_code == 200, response.text

    async def _send_while_held(self, client: httpx.AsyncClient) -> list[asyncio.Task[Any]]:
        """Requests that are answered when no stage is held any more."""
        late = await self._predict(client, self.rows[:16], policy="full", deadline_ms=1000)
        assert {row["left"] for row in late["rows"]} == {"deadline"}
        # the lane is in stage 2 now and takes nothing from the queue
        gone = asyncio.create_task(self._predict(client, self.rows[:16]))
        await self._wait_for_queue(client, 16)
        gone.cancel()
        await self._wait_for_queue(client, 0)
        many = [
            asyncio.create_task(self._predict(client, self.rows[:48], policy="full"))
            for _ in range(2)
        ]
        await self._wait_for_queue(client, 96)
        await self._predict(client, self.rows[:64], status=429)
        return many

    @contextmanager
    def _there_is(self, name: str) -> Iterator[None]:
        """A file beside the faulty service."""
        (self.folder / name).touch()
        try:
            yield
        finally:
            (self.folder / name).unlink()

    async def _predict(
        self, client: httpx.AsyncClient, rows: np.ndarray, status: int = 200, **fields: object
    ) -> dict[str, Any]:
        content = json.dumps({"rows": rows.tolist(), **fields})
        response = await client.post("/predict", content=content)
        assert response.status_code == status, response.text
        return response.json()

    async def _wait_for_queue(self, client: httpx.AsyncClient, rows: int) -> None:
        """Until so many wait for the first stage."""
        name = self.bundle.manifest.name
        wanted = f'offramp_queue_rows{{model="{name}",stage="1"}} {rows:.1f}'
        until = time.monotonic() + 20
        while wanted not in (text := (await client.get("/metrics")).text).splitlines():
            assert time.monotonic() < until, text

    @asynccontextmanager
    async def _client(self) -> AsyncIterator[httpx.AsyncClient]:
        async with httpx.AsyncClient(base_url=self.url, headers=self.headers, timeout=60) as client:
            yield client
