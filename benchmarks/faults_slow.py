"""Clients that send a byte at a time, or read no answer."""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field

from checked_rows import CheckedRows
from faults_site import Finding, Site
from faults_sockets import (
    ENDED_SECONDS,
    PREFACE,
    SETTINGS,
    TICK_SECONDS,
    connected,
    good_request,
)

ACKNOWLEDGED = b"\x00\x00\x00\x04\x01\x00\x00\x00\x00"
"""The other side's settings, in HTTP/2."""
INFER = "/inference.GRPCInferenceService/ModelInfer"
UNREADING, MANY = 2, 64
"""Clients that read no answer, and rows of each of their requests."""


@dataclass(frozen=True)
class Slow:
    """A kind of slow client.

    port : of the server
    at_once, later : what it sends, the second a byte at a time
    is_ended : whether the server must end it; others need only do no harm
    reads : whether it reads what is answered
    """

    port: int
    at_once: bytes
    later: bytes
    is_ended: bool = True
    reads: bool = True


@dataclass
class Trickle:
    """A connection of a slow client.

    sent : bytes of what comes later
    answer : what came back
    seconds : from the connection until the server ended it
    """

    kind: str
    connection: socket.socket
    slow: Slow
    sent: int = 0
    answer: bytes = b""
    begun: float = field(default_factory=time.monotonic)
    seconds: float | None = None

    @property
    def is_due(self) -> bool:
        """Whether the server has still to end it."""
        return self.slow.is_ended and self.seconds is None

    def tick(self) -> None:
        """Send a byte, and take what is there."""
        if self.seconds is not None:
            return
        try:
            if byte := self.slow.later[self.sent : self.sent + 1]:
                self.connection.send(byte)
                self.sent += 1
            if self._has_ended():
                self.seconds = time.monotonic() - self.begun
        except ConnectionError:
            self.seconds = time.monotonic() - self.begun

    def _has_ended(self) -> bool:
        """Whether the server will send no more; reads, where this client does."""
        poll = select.poll()
        poll.register(self.connection, select.POLLRDHUP | self.slow.reads * select.POLLIN)
        while ready := dict(poll.poll(0)).get(self.connection.fileno(), 0):
            if not ready & select.POLLIN:
                return True
            received = self.connection.recv(4096)
            self.answer += received
            if not received:
                return True
        return False


def slow_clients(place: Site) -> Finding:
    """Heads, bodies and calls that come a byte at a time, and answers that nobody reads."""
    head, body = good_request(place.rows)
    http, grpc = place.server.http, place.server.grpc
    kinds = {
        "a slow head": Slow(http, b"", head + body),
        "a slow body": Slow(http, head, body),
        "a slow gRPC preface": Slow(grpc, b"", PREFACE),
        "a slow gRPC message": Slow(grpc, *_call(place.rows), is_ended=False),
        "answers never read": Slow(http, b"", b"", is_ended=False, reads=False),
    }
    finding = Finding()
    with ExitStack() as stack:
        trickles = []
        for kind, slow in kinds.items():
            for _ in range(place.plan.clients if slow.reads else UNREADING):
                connection = stack.enter_context(connected(slow.port))
                if slow.reads:
                    connection.sendall(slow.at_once)
                else:
                    _fill(connection, b"".join(good_request(place.rows, MANY, all_exits=True)))
                trickles.append(Trickle(kind, connection, slow))
        end = time.monotonic() + ENDED_SECONDS
        while time.monotonic() < end and any(one.is_due for one in trickles):
            for one in trickles:
                one.tick()
            time.sleep(TICK_SECONDS)
    for kind in kinds:
        finding.add(_ended(kind, [one for one in trickles if one.kind == kind]))
    return finding


def _ended(kind: str, trickles: Sequence[Trickle]) -> Finding:
    """Whether the server ended the clients of a kind."""
    finding = Finding()
    seconds = [one.seconds for one in trickles if one.seconds is not None]
    going_on = len(trickles) - len(seconds)
    if trickles[0].slow.is_ended:
        finding.expect(not going_on, f"{kind}: {going_on} of {len(trickles)} were not ended")
    told = sorted({one.answer[:12].decode(errors="replace") for one in trickles if one.answer})
    if kind == "a slow body":
        finding.expect(told == ["HTTP/1.1 408"], f"{kind}: told {told}")
    if going_on:
        finding.figures.append(f"{kind}: {going_on} of {len(trickles)} last all the while")
    else:
        finding.figures.append(f"{kind}: ended after {max(seconds):.0f} s")
    return finding


def _call(rows: CheckedRows) -> tuple[bytes, bytes]:
    """A `ModelInfer` call in frames of HTTP/2: all but its message, and the message."""
    message = rows.infer_request([0]).SerializeToString()
    content = b"\x00" + len(message).to_bytes(4, "big") + message
    fields = {
        ":method": "POST",
        ":scheme": "http",
        ":path": INFER,
        ":authority": "here",
        "te": "trailers",
        "content-type": "application/grpc",
    }
    headers = b"".join(
        b"\x00" + b"".join(bytes([len(text)]) + text.encode() for text in field)
        for field in fields.items()
    )
    begin = PREFACE + SETTINGS + ACKNOWLEDGED + _frame(1, 4, headers)
    return begin + _frame(0, 1, content)[:9], content


def _frame(kind: int, flags: int, content: bytes) -> bytes:
    """Of stream 1."""
    return len(content).to_bytes(3, "big") + bytes([kind, flags, 0, 0, 0, 1]) + content


def _fill(connection: socket.socket, request: bytes) -> None:
    """Send requests until the server reads no more, as their answers are not read."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.settimeout(TICK_SECONDS)
    with suppress(TimeoutError, ConnectionError):
        while True:
            connection.sendall(request)
