"""Rows that poison a batch, and requests that are given up, among good ones."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Awaitable
from contextlib import suppress
from io import BytesIO
from typing import Any

import aiohttp
import grpc
import numpy as np
from checked_rows import JSON, CheckedRows
from faults_site import Finding, Site
from tritonclient.grpc import service_pb2_grpc

GOOD_ROWS = (1, 1, 2, 4, 16)
"""Of the good requests of a round, at each port."""
RIGHT, CANCELLED = "right", "cancelled"
CANCEL_SECONDS = (0.0, 0.001, 0.003, 0.01)
TOO_LARGE = 3e38
"""Finite in float32, but no sum of such numbers is."""


def poisoned_rows(place: Site) -> Finding:
    """Rounds of good, poisoned and cancelled requests, all at once."""
    return asyncio.run(_rounds(place))


async def _rounds(place: Site) -> Finding:
    counted, finding = Counter[str](), Finding()
    before = place.server.metric("offramp_requests_total", outcome="internal")
    async with (
        aiohttp.ClientSession(place.server.url) as session,
        grpc.aio.insecure_channel(f"127.0.0.1:{place.server.grpc}") as channel,
    ):
        infer = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer
        for number in range(place.plan.rounds):
            round_ = _Round(place.rows, session, infer, np.random.default_rng(number))
            for kind, outcome in await asyncio.gather(*round_.requests()):
                counted[kind] += 1
                finding.expect(round_.is_expected(kind, outcome), f"{kind}: {outcome[:300]}")
    internal = place.server.metric("offramp_requests_total", outcome="internal") - before
    finding.expect(not internal, f"{internal:.0f} internal errors are counted")
    good, cancelled = counted.pop("good"), counted.pop("cancelled")
    finding.figures.append(
        f"{good} good requests right; {sum(counted.values())} poisoned ones of {len(counted)} "
        f"kinds refused; {cancelled} cancelled"
    )
    return finding


class _Round:
    """The requests of one round; each gives its kind and its outcome."""

    def __init__(
        self, rows: CheckedRows, session: aiohttp.ClientSession, infer: Any, random: Any
    ) -> None:
        self._rows, self._session, self._infer, self._random = rows, session, infer, random
        self._bodies, self._tensors = _poisoned_bodies(rows), _poisoned_tensors(rows)
        named = [*self._bodies.items(), *self._tensors.items()]
        self._words = {kind: words for kind, (_, words) in named}

    def is_expected(self, kind: str, outcome: str) -> bool:
        """Whether a request of this kind may have this outcome."""
        if kind == "good":
            return outcome == RIGHT
        if kind == "cancelled":
            return outcome in (RIGHT, CANCELLED)
        status, _, said = outcome.partition(" ")
        return status in ("400", "INVALID_ARGUMENT") and self._words[kind] in said

    def requests(self) -> list[Awaitable[tuple[str, str]]]:
        """All of them, mixed."""
        found: list[Awaitable[tuple[str, str]]] = []
        for count in GOOD_ROWS:
            places = self._random.integers(0, len(self._rows), count).tolist()
            found += [self._good(self._predict(places)), self._good(self._call(places))]
        for seconds in CANCEL_SECONDS:
            places = self._random.integers(0, len(self._rows), 4).tolist()
            found += [
                self._given_up(self._predict(places, policy="full"), seconds),
                self._given_up(self._call(places), seconds),
            ]
        found += [self._named(kind, self._post(body)) for kind, (body, _) in self._bodies.items()]
        found += [self._named(kind, self._send(rows)) for kind, (rows, _) in self._tensors.items()]
        return [found[place] for place in self._random.permutation(len(found))]

    async def _good(self, asked: Awaitable[str]) -> tuple[str, str]:
        return "good", await asked

    async def _named(self, kind: str, asked: Awaitable[str]) -> tuple[str, str]:
        return kind, await asked

    async def _given_up(self, asked: Awaitable[str], seconds: float) -> tuple[str, str]:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                return "cancelled", await asked
        return "cancelled", CANCELLED

    async def _predict(self, places: list[int], **fields: object) -> str:
        body = self._rows.predict_body(places, **fields)
        async with self._session.post("/predict", data=BytesIO(body), headers=JSON) as response:
            if response.status != 200:
                return f"{response.status} {await response.text()}"
            answer = await response.json()
        # at full depth other answers are right, which bystanders check
        return RIGHT if fields or self._rows.is_prediction(places, answer) else "wrong"

    async def _call(self, places: list[int]) -> str:
        try:
            answer = await self._infer(self._rows.infer_request(places))
        except grpc.aio.AioRpcError as error:
            return f"{error.code().name} {error.details()}"
        return RIGHT if self._rows.is_inference(places, answer) else "wrong"

    async def _post(self, body: bytes) -> str:
        # large bytes alone would earn a warning
        async with self._session.post("/predict", data=BytesIO(body), headers=JSON) as response:
            said = await response.json()
            return f"{response.status} {said.get('error', said)}"

    async def _send(self, rows: np.ndarray) -> str:
        request = self._rows.infer_request([0])
        request.inputs[0].shape[:] = rows.shape
        request.raw_input_contents[0] = rows.tobytes()
        try:
            await self._infer(request)
        except grpc.aio.AioRpcError as error:
            return f"{error.code().name} {error.details()}"
        return "OK"


def _poisoned_bodies(rows: CheckedRows) -> dict[str, tuple[bytes, str]]:
    """Bodies of `/predict` by what is wrong with them, each with what the refusal says of it."""
    good = rows.rows[:2].tolist()
    row, overflowing = good[0], _overflowing(rows, TOO_LARGE)[0].tolist()
    documents: dict[str, tuple[list[object], str]] = {
        "text": ([row, "x"], "rows[1]"),
        "null": ([row, None], "rows[1]"),
        "ragged": ([row, row[:-1] or [row]], "rows[1]"),
        "empty": ([], "rows"),
        "too many": (good * 129, "rows"),
        "beyond float32": (_overflowing(rows, 1e300).tolist(), "finite"),
        "overflow": ([overflowing], "no finite answer to the values of row 0"),
        "overflow among good": ([*good, overflowing], "no finite answer to the values of row 2"),
    }
    bodies = {
        kind: (json.dumps({"rows": wrong}).encode(), words)
        for kind, (wrong, words) in documents.items()
    }
    whole = rows.predict_body([0])
    return {**bodies, "half a document": (whole[: len(whole) // 2], "body: Invalid JSON")}


def _poisoned_tensors(rows: CheckedRows) -> dict[str, tuple[np.ndarray, str]]:
    """Tensors for `ModelInfer`, likewise."""
    good = rows.rows[:1]
    return {
        "NaN tensor": (np.full_like(good, np.nan), "finite"),
        "infinite tensor": (np.full_like(good, -np.inf), "finite"),
        "overflow tensor": (
            _overflowing(rows, TOO_LARGE).astype(np.float32),
            "no finite answer to the values of row 0",
        ),
        "wide tensor": (np.concatenate([good, good], axis=-1), "shape"),
        "deep tensor": (good[..., None], "shape"),
    }


def _overflowing(rows: CheckedRows, size: float) -> np.ndarray:
    """One row of huge numbers, of both signs."""
    shape = rows.rows[:1].shape
    signs = np.where(np.arange(np.prod(shape)) % 2, 1.0, -1.0)
    return np.asarray(signs.reshape(shape) * size)
