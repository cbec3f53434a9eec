"""Raw connections of clients that hang up half way, or ask for nothing."""

from __future__ import annotations

import json
import resource
import select
import socket
import struct
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

import grpc
from checked_rows import CheckedRows
from faults_site import Finding, Site, Skipped, descriptors, descriptors_settle

TICK_SECONDS = 0.25
"""Between two bytes of a slow client."""
ENDED_SECONDS = 20.0 + 10.0
"""The limit of a body, and what a busy machine may add."""
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""Of HTTP/2, with which a gRPC client begins."""
SETTINGS = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
RESET = struct.pack("ii", 1, 0)
"""Of SO_LINGER: a socket that is closed sends RST."""
SPARE_FILES = 200


def hang_ups(place: Site) -> Finding:
    """Half-closed sockets and resets, after whole requests and within them."""
    finding, worker = Finding(), place.server.worker
    before = descriptors(worker)
    head, body = good_request(place.rows)
    half = (head + body)[: len(head) + len(body) // 2]
    http, rpc = place.server.http, place.server.grpc
    outcomes = Counter[str]()
    for _ in range(place.plan.hang_ups):
        outcomes[_half_closed(http, head + body, place.rows)] += 1
        outcomes[f"half: {_half_closed(http, half, place.rows)}"] += 1
        outcomes[f"gRPC: {_half_closed(rpc, PREFACE + SETTINGS, None)}"] += 1
        for port, content in ((http, head + body), (http, half), (rpc, PREFACE + SETTINGS)):
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
    finding, worker, count = Finding(), place.server.worker, place.plan.idle
    before = descriptors(worker)
    with _many_files(2 * count + SPARE_FILES), ExitStack() as stack:
        idle = {
            name: [stack.enter_context(connected(port)) for _ in range(count)]
            for name, port in (("HTTP", place.server.http), ("gRPC", place.server.grpc))
        }
        late = stack.enter_context(_Newcomer(place.server.grpc))
        most, lasted = _outlasted(place, idle)
        finding.figures.append(f"a new gRPC client is let in after {late.seconds():.0f} s")
    after = descriptors_settle(worker, before)
    for name, seconds in lasted.items():
        finding.expect(len(seconds) == count, f"{count - len(seconds)} idle {name} ones stay")
        if seconds:
            finding.figures.append(f"{count} idle to {name}: ended after {max(seconds):.0f} s")
    finding.figures.append(f"descriptors {before} before, {most} at most, {after} after")
    finding.expect(most < place.plan.files, f"all {most} descriptors were used up")
    finding.expect(after <= before, f"{before} descriptors before, {after} after")
    return finding


def good_request(rows: CheckedRows, count: int = 1, **fields: object) -> tuple[bytes, bytes]:
    """Head and body of a good request."""
    body = rows.predict_body([0] * count, **fields)
    head = (
        "POST /predict HTTP/1.1\r\nHost: here\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode(), body


def connected(port: int) -> socket.socket:
    """A connection to a port of the loopback."""
    return socket.create_connection(("127.0.0.1", port), timeout=ENDED_SECONDS)


def _half_closed(port: int, content: bytes, rows: CheckedRows | None) -> str:
    """Send, say that no more will come, and see what comes back: "answered", "ended", "other"."""
    with connected(port) as connection:
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
    with connected(port) as connection:
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


class _Newcomer:
    """A gRPC client that begins to connect now."""

    def __init__(self, port: int) -> None:
        patience = [("grpc.max_reconnect_backoff_ms", 1000)]
        self._channel = grpc.insecure_channel(f"127.0.0.1:{port}", patience)
        self._begun = time.monotonic()
        self._seconds = 0.0
        self._ready = grpc.channel_ready_future(self._channel)
        self._ready.add_done_callback(self._note)

    def __enter__(self) -> _Newcomer:
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.close()

    def seconds(self) -> float:
        """How long it took to be let in; grpc.FutureTimeoutError when it is not."""
        self._ready.result(ENDED_SECONDS)
        return self._seconds

    def _note(self, _: object) -> None:
        self._seconds = time.monotonic() - self._begun


@contextmanager
def _many_files(count: int) -> Iterator[None]:
    """Let this process open so many files.

    Raises
    ------
    Skipped
        When it may not.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < count:
        raise Skipped(f"needs {count} open files, found a limit of {hard}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, count), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
