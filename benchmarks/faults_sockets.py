"""Raw connections of clients that are slow, hang up half way, or ask for nothing."""

from __future__ import annotations

import json
import resource
import select
import socket
import struct
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field

from checked_rows import CheckedRows
from faults_site import Finding, Site, descriptors, descriptors_settle

TICK_SECONDS = 0.25
"""Between two bytes of a slow client."""
ENDED_SECONDS = 20.0 + 10.0
"""The limit of a body, and what a busy machine may add."""
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""Of HTTP/2, with which a gRPC client begins."""
SETTINGS = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
ACKNOWLEDGED = b"\x00\x00\x00\x04\x01\x00\x00\x00\x00"
INFER = "/inference.GRPCInferenceService/ModelInfer"
RESET = struct.pack("ii", 1, 0)
"""Of SO_LINGER: a socket that is closed sends RST."""
SPARE_FILES = 200
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
        poll.register(self.connection, select.POLLRDHUP)
        while self.slow.reads and select.select([self.connection], [], [], 0)[0]:
            received = self.connection.recv(4096)
            self.answer += received
            if not received:
                return True
        return bool(poll.poll(0))


def slow_clients(place: Site) -> Finding:
    """Heads, bodies and calls that come a byte at a time, and answers that nobody reads."""
    head, body = _request(place.rows)
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
                connection = stack.enter_context(_connected(slow.port))
                if slow.reads:
                    connection.sendall(slow.at_once)
                else:
                    _fill(connection, b"".join(_request(place.rows, MANY, all_exits=True)))
                trickles.append(Trickle(kind, connection, slow))
        end = time.monotonic() + ENDED_SECONDS
        while time.monotonic() < end and any(one.is_due for one in trickles):
            for one in trickles:
                one.tick()
            time.sleep(TICK_SECONDS)
    for kind in kinds:
        finding.add(_ended(kind, [one for one in trickles if one.kind == kind]))
    return finding


def hang_ups(place: Site) -> Finding:
    """Half-closed sockets and resets, after whole requests and within them."""
    finding, worker = Finding(), place.server.worker
    before = descriptors(worker)
    head, body = _request(place.rows)
    half = (head + body)[: len(head) + len(body) // 2]
    http, grpc = place.server.http, place.server.grpc
    outcomes = Counter[str]()
    for _ in range(place.plan.hang_ups):
        outcomes[_half_closed(http, head + body, place.rows)] += 1
        outcomes[f"half: {_half_closed(http, half, place.rows)}"] += 1
        outcomes[f"gRPC: {_half_closed(grpc, PREFACE + SETTINGS, None)}"] += 1
        for port, content in ((http, head + body), (http, half), (grpc, PREFACE + SETTINGS)):
            _reset(port, content)
    after = descriptors_settle(worker, before)
    finding.expect(not outcomes["other"], f"half-closed after a request: {dict(outcomes)}")
    finding.expect(not outcomes["half: other"], f"half a request: {dict(outcomes)}")
    finding.expect(not outcomes["gRPC: other"], f"half a gRPC handshake: {dict(outcomes)}")
    finding.expect(after <= before, f"{before} descriptors before, {after} after")
    finding.figures.append(
        f"{6 * place.plan.hang_ups} hang-ups; after a whole request and a half-close "
        f"{outcomes['answered']} answered, {outcomes['ended']} ended; descriptors {before} "
        f"before, {after} after"
    )
    return finding


def idle_connections(place: Site) -> Finding:
    """Connections over which nothing is ever sent, as many as the plan says to each port."""
    finding, worker = Finding(), place.server.worker
    before = descriptors(worker)
    with _many_files(2 * place.plan.idle + SPARE_FILES) as files, ExitStack() as stack:
        count = min(place.plan.idle, (files - SPARE_FILES) // 2)
        finding.expect(count == place.plan.idle, f"{files} files may be open here: {count} opened")
        idle = {
            name: [stack.enter_context(_connected(port)) for _ in range(count)]
            for name, port in (("HTTP", place.server.http), ("gRPC", place.server.grpc))
        }
        most, lasted = _outlasted(place, idle)
    after = descriptors_settle(worker, before)
    for name, seconds in lasted.items():
        finding.expect(len(seconds) == count, f"{count - len(seconds)} idle {name} ones stay")
        if seconds:
            finding.figures.append(f"{count} idle to {name}: ended after {max(seconds):.0f} s")
    finding.figures.append(f"descriptors {before} before, {most} at most, {after} after")
    finding.expect(most < place.plan.files, f"all {most} descriptors were used up")
    finding.expect(after <= before, f"{before} descriptors before, {after} after")
    return finding


def _request(rows: CheckedRows, count: int = 1, **fields: object) -> tuple[bytes, bytes]:
    """Head and body of a good request."""
    body = rows.predict_body([0] * count, **fields)
    head = (
        "POST /predict HTTP/1.1\r\nHost: here\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode(), body


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


def _connected(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=ENDED_SECONDS)


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


def _half_closed(port: int, content: bytes, rows: CheckedRows | None) -> str:
    """Send, say that no more will come, and see what comes back: "answered", "ended", "other"."""
    with _connected(port) as connection:
        connection.sendall(content)
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        with suppress(ConnectionError):
            while received := connection.recv(65536):
                answer += received
    if not answer or not rows or answer.startswith(b"HTTP/1.1 400"):
        return "ended"
    head, _, body = answer.partition(b"\r\n\r\n")
    right = head.startswith(b"HTTP/1.1 200") and rows.is_prediction([0], json.loads(body))
    return "answered" if right else "other"


def _reset(port: int, content: bytes) -> None:
    with _connected(port) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        connection.sendall(content)


def _outlasted(
    place: Site, idle: dict[str, list[socket.socket]]
) -> tuple[int, dict[str, list[float]]]:
    """The most descriptors of the worker, and when connections ended, until all have."""
    begun, most = time.monotonic(), 0
    lasted: dict[str, list[float]] = {name: [] for name in idle}
    names = {connection.fileno(): name for name, many in idle.items() for connection in many}
    poll = select.poll()
    for descriptor in names:
        poll.register(descriptor, select.POLLRDHUP)
    while names and (now := time.monotonic()) < begun + ENDED_SECONDS:
        most = max(most, place.server.worker.num_fds())
        for descriptor, _ in poll.poll(TICK_SECONDS * 1000):
            poll.unregister(descriptor)
            lasted[names.pop(descriptor)].append(now - begun)
    return most, lasted


@contextmanager
def _many_files(count: int) -> Iterator[int]:
    """Let this process open so many files, or what it may; how many it is."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = count if hard == resource.RLIM_INFINITY else min(count, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, most), hard))
    try:
        yield max(soft, most)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
