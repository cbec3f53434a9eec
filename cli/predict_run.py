"""Sends rows in batches, several at a time, and gives every row's answer in the rows' order."""

from __future__ import annotations

import asyncio
from asyncio import sleep
from collections import deque
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cli.predict_client import ModelClient, Taken
from cli.predict_rows import Row
from models.errors import (
    Forbidden,
    InvalidInput,
    NotFound,
    OfframpError,
    Overloaded,
    Unauthenticated,
)

LONGEST_WAIT = 30.0
"""Seconds, however long the server asks for."""
ATTEMPTS = 6
HOPELESS = (Unauthenticated, Forbidden, NotFound)
"""What no other row would fare better with."""


@dataclass(frozen=True)
class Sending:
    """How rows are sent.

    options : keyword arguments of tritonclient's `infer`
    batch : rows of a request
    parallel : requests at the same time
    """

    options: Mapping[str, Any] = field(default_factory=dict)
    batch: int = 32
    parallel: int = 4


async def answers(
    client: ModelClient, taken: Taken, rows: Iterable[Row], sending: Sending
) -> AsyncGenerator[dict[str, Any], None]:
    """A document for every row: its file and place, and its answer or its error.

    Raises
    ------
    InvalidInput
        When an option is refused.
    Unauthenticated, Forbidden, NotFound
        Whatever the rows.
    """
    batches = _batches(rows, sending.batch)
    waiting: deque[asyncio.Task[list[dict[str, Any]]]] = deque()
    try:
        for batch in batches:
            waiting.append(asyncio.create_task(_answered(client, taken, batch, sending.options)))
            if len(waiting) == sending.parallel:
                for document in await waiting.popleft():
                    yield document
        while waiting:
            for document in await waiting.popleft():
                yield document
    finally:
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


def _batches(rows: Iterable[Row], size: int) -> Iterator[list[Row]]:
    """Rows that one request may hold together: bad ones are in, and are not sent."""
    batch: list[Row] = []
    shape: Any = None
    for row in rows:
        found = getattr(row.value, "shape", None) or shape
        if batch and (len(batch) == size or found != shape):
            yield batch
            batch = []
        shape = found
        batch.append(row)
    if batch:
        yield batch


async def _answered(
    client: ModelClient, taken: Taken, batch: Sequence[Row], options: Mapping[str, Any]
) -> list[dict[str, Any]]:
    good = [row for row in batch if not row.error]
    found = iter(await _results(client, taken, good, options) if good else ())
    return [
        {
            "file": row.file,
            "row": row.number,
            **({"error": row.error} if row.error else next(found)),
        }
        for row in batch
    ]


async def _results(
    client: ModelClient, taken: Taken, rows: Sequence[Row], options: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Of every row; where a request is refused, halves of it are tried, so that one row fails."""
    try:
        result = await _patiently(client, taken, rows, options)
    except HOPELESS:
        raise
    except InvalidInput as error:
        if str(error).partition(":")[0] in options.get("parameters", ()):
            raise  # the option is refused, with any row
        if len(rows) == 1:
            return [{"error": str(error).removeprefix("rows[0]: ")}]
        half = len(rows) // 2
        first = await _results(client, taken, rows[:half], options)
        return first + await _results(client, taken, rows[half:], options)
    except OfframpError as error:
        return [{"error": str(error)}] * len(rows)
    return _documents(result, taken)


async def _patiently(
    client: ModelClient, taken: Taken, rows: Sequence[Row], options: Mapping[str, Any]
) -> Any:
    """Try again while the server has no room, as often as is decent."""
    values = [row.value for row in rows]
    for _ in range(ATTEMPTS - 1):
        try:
            return await client.infer(taken, values, options)
        except Overloaded as error:
            await sleep(min(error.retry_after, LONGEST_WAIT))
    return await client.infer(taken, values, options)


def _documents(result: Any, taken: Taken) -> list[dict[str, Any]]:
    tensors = {name: result.as_numpy(name) for name in ("labels", "probabilities")}
    scalars = {name: result.as_numpy(name).tolist() for name in ("exit", "score", "certified")}
    return [
        {
            "labels": _label_set(chosen, probabilities, taken.labels),
            **{name: values[place] for name, values in scalars.items()},
            "probabilities": probabilities.tolist(),
        }
        for place, (chosen, probabilities) in enumerate(zip(*tensors.values(), strict=True))
    ]


def _label_set(
    chosen: np.ndarray, probabilities: np.ndarray, names: Sequence[str]
) -> list[dict[str, Any]]:
    """The labels of the set, the most probable first; by position where names are not known."""
    ranked = sorted(np.flatnonzero(chosen).tolist(), key=lambda label: -probabilities[label])
    return [
        {"name": names[label] if names else label, "probability": float(probabilities[label])}
        for label in ranked
    ]
