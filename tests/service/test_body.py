from __future__ import annotations

import asyncio
import gzip
import tracemalloc
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request

from models.errors import Cancelled, InvalidInput, OfframpError, PayloadTooLarge, TooSlow
from service.body import read_body
from service.compression import Inflater, accepted, compress

LIMIT = 1000
COMPRESS: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.compress, "deflate": zlib.compress}
encodings = st.sampled_from(list(COMPRESS))


def sent(chunks: Sequence[bytes], complete: bool = True, **headers: str) -> Request:
    """A request whose body comes in these chunks; its client leaves before the end."""
    messages: list[dict[str, Any]] = [
        {"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks
    ]
    end = {"type": "http.request", "body": b"", "more_body": False}
    messages.append(end if complete else {"type": "http.disconnect"})

    async def receive() -> dict[str, Any]:
        return messages.pop(0)

    lines = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return Request({"type": "http", "method": "POST", "headers": lines}, receive)


def read(chunks: Sequence[bytes], complete: bool = True, **headers: str) -> bytes:
    return asyncio.run(read_body(sent(chunks, complete, **headers), LIMIT))


def cut(content: bytes, size: int) -> list[bytes]:
    return [content[start : start + size] for start in range(0, len(content), size)]


@given(st.lists(st.binary(max_size=90), max_size=10))
def test_a_body_is_its_chunks(chunks: list[bytes]) -> None:
    assert read(chunks) == b"".join(chunks)


def test_a_body_of_one_chunk_is_not_copied() -> None:
    chunk = b"some bytes"
    assert read([chunk]) is chunk


@pytest.mark.parametrize("encoding", ["", "identity", " Identity "])
def test_a_body_that_is_not_encoded_stays_as_it_is(encoding: str) -> None:
    assert read([b"plain"], content_encoding=encoding) == b"plain"


@given(encodings, st.binary(max_size=LIMIT), st.integers(1, 99))
def test_a_compressed_body_is_inflated(encoding: str, content: bytes, size: int) -> None:
    body = COMPRESS[encoding](content)
    if len(body) <= LIMIT:
        assert read(cut(body, size), content_encoding=encoding.upper()) == content


@given(encodings, st.integers(0, 9), st.integers(1, 99))
def test_the_limit_is_exact(encoding: str, over: int, size: int) -> None:
    body = COMPRESS[encoding](bytes(LIMIT + over))
    if over:
        with pytest.raises(PayloadTooLarge, match="1000 bytes"):
            read(cut(body, size), content_encoding=encoding)
    else:
        assert read(cut(body, size), content_encoding=encoding) == bytes(LIMIT)


@pytest.mark.parametrize("encoding", list(COMPRESS))
def test_a_bomb_is_never_inflated_beyond_the_limit(encoding: str) -> None:
    bomb = COMPRESS[encoding](bytes(10**8))
    inflater = Inflater(encoding, LIMIT)
    tracemalloc.start()
    try:
        with pytest.raises(PayloadTooLarge):
            inflater.inflate(bomb)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < len(bomb) + 100 * LIMIT


@given(encodings, st.binary(min_size=1, max_size=400), st.integers(1, 30), st.data())
def test_a_compressed_body_that_is_cut_short_is_refused(
    encoding: str, content: bytes, size: int, data: st.DataObject
) -> None:
    body = COMPRESS[encoding](content)
    kept = body[: data.draw(st.integers(0, len(body) - 1))]
    with pytest.raises(InvalidInput, match=f"its {encoding} is cut short"):
        read(cut(kept, size), content_encoding=encoding)


@given(encodings, st.binary(max_size=400), st.binary(min_size=1, max_size=90), st.integers(1, 99))
def test_what_follows_a_compressed_body_is_refused(
    encoding: str, content: bytes, more: bytes, size: int
) -> None:
    with pytest.raises(InvalidInput, match=f"behind the end of its {encoding}"):
        read(cut(COMPRESS[encoding](content) + more, size), content_encoding=encoding)


@given(encodings, st.lists(st.binary(max_size=90), max_size=5))
def test_no_bytes_are_more_than_refused(encoding: str, chunks: list[bytes]) -> None:
    with pytest.raises(OfframpError):
        read(chunks, content_encoding=encoding)


@pytest.mark.parametrize("encoding", ["br", "gzip, gzip", "gzip,deflate", "identity, gzip", "x"])
def test_chains_and_unknown_encodings_are_refused(encoding: str) -> None:
    body = gzip.compress(gzip.compress(b"{}"))
    with pytest.raises(InvalidInput, match=r"Content-Encoding .* expected one of gzip, deflate"):
        read([body], content_encoding=encoding)


def test_two_headers_are_a_chain() -> None:
    request = sent([gzip.compress(gzip.compress(b"{}"))])
    request.scope["headers"] = [(b"content-encoding", b"gzip")] * 2
    with pytest.raises(InvalidInput, match="gzip, gzip"):
        asyncio.run(read_body(request, LIMIT))


def test_an_announced_body_over_the_limit_is_not_read() -> None:
    with pytest.raises(PayloadTooLarge):
        read([], content_length=str(LIMIT + 1))
    with pytest.raises(PayloadTooLarge):
        read([], content_length="9" * 5000)


def test_a_client_that_leaves_before_the_end_is_no_complete_body() -> None:
    with pytest.raises(Cancelled):
        read([b"half"], complete=False)


@pytest.mark.parametrize(
    ("header", "encoding"),
    [
        ("", None),
        ("br", None),
        ("identity", None),
        ("gzip", "gzip"),
        ("deflate", "deflate"),
        ("deflate, gzip", "gzip"),
        ("GZIP;q=1.0, deflate;q=0.5", "gzip"),
        ("gzip;q=0, deflate", "deflate"),
        ("gzip; q=0.000", None),
        ("gzip;q=0.001", "gzip"),
        ("gzip;q=0, deflate;Q=0.0", None),
    ],
)
def test_an_answer_comes_in_an_encoding_that_the_client_takes(
    header: str, encoding: str | None
) -> None:
    assert accepted(header) == encoding


@given(st.binary(max_size=500))
def test_answers_are_inflated_by_other_libraries(content: bytes) -> None:
    assert gzip.decompress(compress(content, "gzip")) == content
    assert zlib.decompress(compress(content, "deflate")) == content


async def test_a_body_that_does_not_come_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("service.body.BODY_SECONDS", 0.01)
    first = {"type": "http.request", "body": b"half", "more_body": True}
    messages = [first]

    async def receive() -> dict[str, Any]:
        return messages.pop() if messages else await asyncio.Future()

    request = Request({"type": "http", "method": "POST", "headers": []}, receive)
    with pytest.raises(TooSlow, match=r"found 4 bytes after 0\.01 s"):
        await read_body(request, LIMIT)
