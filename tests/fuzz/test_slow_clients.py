"""Clients on raw sockets: slow, lying about lengths, gone in the middle. Others are answered."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack, suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.rounds import Repeat, any_request
from tests.fuzz.target import GOOD_ROWS, Target

pytestmark = pytest.mark.slow

GOOD = json.dumps({"rows": [GOOD_ROWS["numbers"]]}).encode()
LONG = b"<a long header>"
PATHS = ("/predict", "/v2/models/small-numbers/infer")


@pytest.fixture
def numbers(targets: dict[str, Target]) -> Target:
    return targets["numbers"]


def connected(target: Target) -> socket.socket:
    host, port = target.server.http.split(":")
    return socket.create_connection((host, int(port)), timeout=5)


def request(path: str, length: object, body: bytes, extra: str = "") -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: server\r\nContent-Length: {length}\r\n{extra}\r\n"
    return head.encode() + body


def received(connection: socket.socket) -> bytes:
    """What comes before the server says no more, or has said nothing for a while."""
    content = b""
    try:
        while chunk := connection.recv(65536):
            content += chunk
            if b"\r\n\r\n" in content:
                break
    except (TimeoutError, ConnectionError):
        pass
    return content


def status(content: bytes) -> int:
    return int(content.split(b" ", 2)[1]) if content.startswith(b"HTTP/") else 0


@pytest.mark.parametrize("path", PATHS)
def test_clients_that_send_a_byte_at_a_time_and_then_nothing_hold_nobody_up(
    numbers: Target, path: str
) -> None:
    with ExitStack() as stack:
        slow = [stack.enter_context(connected(numbers)) for _ in range(50)]
        for connection in slow:
            connection.sendall(request(path, len(GOOD), b""))
        for place in range(10):
            for connection in slow:
                connection.sendall(GOOD[place : place + 1])
            numbers.check_answers()
        # the one that goes on is answered, however late
        slow[0].sendall(GOOD[10:])
        assert status(received(slow[0])) in (200, 400)
    numbers.check_answers()


@pytest.mark.parametrize("path", PATHS)
def test_clients_that_go_away_in_the_middle_leave_nothing_behind(
    numbers: Target, path: str
) -> None:
    for _ in range(20):
        with connected(numbers) as connection:
            connection.sendall(request(path, len(GOOD), GOOD[:10]))
        with connected(numbers) as connection:
            connection.sendall(request(path, len(GOOD), GOOD))
    numbers.check_answers()


def lengths() -> Iterator[object]:
    yield from (0, 1, len(GOOD) - 1, len(GOOD) + 1, -1, "+5", "1e3", "", "0x10", 10**30, "5, 6")


@pytest.mark.parametrize("length", [*lengths()])
@pytest.mark.parametrize("path", PATHS)
def test_a_wrong_length_is_no_internal_error(numbers: Target, path: str, length: object) -> None:
    with connected(numbers) as connection:
        connection.sendall(request(path, length, GOOD))
        connection.shutdown(socket.SHUT_WR)
        assert status(received(connection)) < 500
    numbers.check_answers()


def test_heads_of_requests(numbers: Target, repeat: Repeat) -> None:
    lines = st.sampled_from(
        [
            b"POST /predict HTTP/1.1\r\n",
            b"Host: server\r\n",
            b"Content-Length: 10\r\n",
            b"Transfer-Encoding: chunked\r\n",
            b"Content-Type: application/json\r\n",
            b"Inference-Header-Content-Length: 5\r\n",
            LONG,
            b"\r\n",
            b"5\r\nhello\r\n",
            b"ffffffffffffffff\r\n",
            b"0\r\n\r\n",
            b"{}",
        ]
    )

    @any_request
    @given(st.lists(lines | st.binary(max_size=10), max_size=10).map(b"".join))
    def round_(content: bytes) -> None:
        with connected(numbers) as connection:
            connection.settimeout(0.2)
            with suppress(OSError):  # the server need not listen to its end
                connection.sendall(content.replace(LONG, b"X: " + b"y" * 70_000 + b"\r\n"))
                connection.shutdown(socket.SHUT_WR)
            assert status(received(connection)) < 500
        numbers.check_answers()

    repeat(round_)
