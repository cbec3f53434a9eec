from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.predict_client import Taken
from cli.predict_rows import Row
from cli.predict_run import Sending, answers
from models.errors import InvalidInput, OfframpError, Overloaded, Unauthenticated, Unavailable

TAKEN = Taken("m", "text", "text", "BYTES", (), ("a", "b"))
OUTPUTS = ("labels", "probabilities", "exit", "score", "certified")


class Result:
    """The answer to rows whose score is their own number."""

    def __init__(self, rows: Sequence[bytes]) -> None:
        score = np.array([int(row) for row in rows], np.float32)
        probabilities = np.tile(np.array([0.6, 0.9], np.float32), (len(rows), 1))
        values = (probabilities > 0.5, probabilities, np.ones(len(rows), int), score, score > 0)
        self._tensors = dict(zip(OUTPUTS, values, strict=True))

    def as_numpy(self, name: str) -> np.ndarray:
        return self._tensors[name]


class Client:
    """A server that refuses some rows.

    most : requests that were under way at the same time
    sent : rows of every request
    """

    def __init__(self, refused: Sequence[bytes] = (), error: OfframpError | None = None) -> None:
        self._refused, self._error = refused, error
        self._now = self.most = 0
        self.sent: list[int] = []

    async def infer(self, taken: Taken, rows: Sequence[bytes], options: Any) -> Result:
        self.sent.append(len(rows))
        self._now += 1
        self.most = max(self.most, self._now)
        # the earlier a request, the later its answer
        for _ in range(50 - min(len(self.sent), 50)):
            await asyncio.sleep(0)
        self._now -= 1
        if self._error:
            raise self._error
        for place, row in enumerate(rows):
            if row in self._refused:
                raise InvalidInput(f"rows[{place}]: found {row!r}")
        return Result(rows)


def texts(count: int) -> list[Row]:
    return [Row("f", number, str(number).encode()) for number in range(count)]


def documents(client: Any, rows: list[Row], sending: Sending) -> list[dict[str, Any]]:
    async def collected() -> list[dict[str, Any]]:
        return [document async for document in answers(client, TAKEN, rows, sending)]

    return asyncio.run(collected())


@given(
    count=st.integers(0, 40),
    batch=st.integers(1, 9),
    parallel=st.integers(1, 5),
    refused=st.sets(st.integers(0, 39)),
    unread=st.sets(st.integers(0, 39)),
)
def test_every_row_is_answered_in_its_place(
    count: int, batch: int, parallel: int, refused: set[int], unread: set[int]
) -> None:
    rows = [Row("f", r.number, None, "no") if r.number in unread else r for r in texts(count)]
    client = Client([str(number).encode() for number in refused])
    found = documents(client, rows, Sending({}, batch, parallel))
    assert [document["row"] for document in found] == list(range(count))
    for number, document in enumerate(found):
        assert ("error" in document) == (number in refused | unread)
        assert document.get("score", number) == number
    assert client.most <= parallel
    assert all(sent <= batch for sent in client.sent)


def test_as_many_requests_as_allowed_are_under_way() -> None:
    client = Client()
    documents(client, texts(40), Sending({}, batch=2, parallel=3))
    assert client.most == 3
    assert client.sent == [2] * 20


def test_labels_have_names_and_the_most_probable_is_first() -> None:
    (document,) = documents(Client(), texts(1), Sending())
    assert [label["name"] for label in document["labels"]] == ["b", "a"]


def test_a_lost_connection_fails_the_rows_that_were_sent() -> None:
    found = documents(Client(error=Unavailable("gone")), texts(5), Sending({}, batch=2))
    assert [document["error"] for document in found] == ["gone"] * 5


def test_a_key_that_is_refused_ends_it_all() -> None:
    with pytest.raises(Unauthenticated):
        documents(Client(error=Unauthenticated("no")), texts(5), Sending())


def test_an_option_that_is_refused_ends_it_all() -> None:
    client = Client(error=InvalidInput("policy: found 'fast'"))
    with pytest.raises(InvalidInput, match="fast"):
        documents(client, texts(64), Sending({"parameters": {"policy": "fast"}}, 32, 1))
    assert client.sent == [32]


def test_a_wait_is_as_long_as_the_server_says_but_not_longer_than_is_decent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waited = []

    async def wait(seconds: float) -> None:
        waited.append(seconds)

    monkeypatch.setattr("cli.predict_run.sleep", wait)
    documents(Client(error=Overloaded("full", retry_after=7)), texts(1), Sending())
    documents(Client(error=Overloaded("full", retry_after=3600)), texts(1), Sending())
    assert waited == [7] * 5 + [30] * 5
