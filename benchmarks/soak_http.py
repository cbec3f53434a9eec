"""A client of HTTP/1.1 that knows whether the server had the request that it did not answer.

Other clients tell only that a connection ended. The kernel knows more: a socket that is closed
with bytes in it that nobody has read, or that gets bytes after it is closed, resets its connection;
one that is closed after all was read just ends it. So after a reset the server never had the whole
request, and after an end without an answer it did, and has lost it.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

LONGEST_HEAD = 2**16


class NotTaken(Exception):
    """The server was not there, or left before it had the whole request."""


class Lost(Exception):
    """The server had the whole request and left without the whole answer."""


@dataclass(frozen=True)
class Response:
    """headers : by their names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class _Connection:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    @property
    def is_open(self) -> bool:
        return not (self.reader.at_eof() or self.writer.is_closing())

    @property
    def was_reset(self) -> bool:
        taken: socket.socket = self.writer.get_extra_info("socket")
        return taken.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) != 0


class HttpClient:
    """Keeps connections open between requests, as many as there are requests at a time."""

    def __init__(self, port: int, host: str = "127.0.0.1") -> None:
        self._host, self._port = host, port
        self._idle: list[_Connection] = []

    async def post(self, path: str, headers: Mapping[str, str], body: bytes) -> Response:
        """Send a request and read the whole answer.

        Where a connection that was kept turns out to be closed, a new one is used, as any client
        may when the server had not taken the request.

        Raises
        ------
        NotTaken, Lost
            When there is no whole answer.
        """
        lines = [f"POST {path} HTTP/1.1", f"Host: {self._host}:{self._port}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        lines += [f"Content-Length: {len(body)}", "", ""]
        request = "\r\n".join(lines).encode() + body
        while self._idle:
            kept = self._idle.pop()
            if kept.is_open:
                with suppress(NotTaken):
                    return await self._ask(kept, request)
            kept.writer.transport.abort()
        return await self._ask(await self._connected(), request)

    async def close(self) -> None:
        """Close the connections that nobody uses."""
        for connection in self._idle:
            connection.writer.close()
            with suppress(OSError):
                await connection.writer.wait_closed()
        self._idle.clear()

    async def _connected(self) -> _Connection:
        try:
            return _Connection(
                *await asyncio.open_connection(self._host, self._port, limit=LONGEST_HEAD)
            )
        except OSError as error:
            raise NotTaken(f"no connection: {error}") from error

    async def _ask(self, connection: _Connection, request: bytes) -> Response:
        try:
            response = await self._exchange(connection, request)
        except BaseException:  # given up half way: nobody can use it any more
            connection.writer.transport.abort()
            raise
        if "close" in response.headers.get("connection", "").lower():
            connection.writer.close()
        else:
            self._idle.append(connection)
        return response

    async def _exchange(self, connection: _Connection, request: bytes) -> Response:
        connection.writer.write(request)
        try:
            head = await connection.reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError as error:
            if error.partial:
                raise Lost("the connection ended within the answer's head") from error
            if connection.was_reset:
                raise NotTaken("the connection was reset") from error
            raise Lost("the connection ended without an answer") from error
        except ConnectionError as error:
            raise NotTaken(f"the connection was reset: {error!r}") from error
        status, headers = _parsed_head(head)
        try:
            body = await _body(connection.reader, headers)
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            raise Lost(f"the connection ended within the answer's body: {error!r}") from error
        return Response(status, headers, body)


def _parsed_head(head: bytes) -> tuple[int, dict[str, str]]:
    first, *lines = head.decode("latin-1").split("\r\n")[:-2]
    pairs = (line.partition(":") for line in lines)
    return int(first.split()[1]), {name.lower(): value.strip() for name, _, value in pairs}


async def _body(reader: asyncio.StreamReader, headers: Mapping[str, str]) -> bytes:
    if "chunked" not in headers.get("transfer-encoding", ""):
        return await reader.readexactly(int(headers.get("content-length", "0")))
    chunks = []
    while size := int((await _line(reader)).split(b";")[0], 16):
        chunks.append(await reader.readexactly(size))
        await _line(reader)
    await _line(reader)
    return b"".join(chunks)


async def _line(reader: asyncio.StreamReader) -> bytes:
    """A whole line: one that the end of the connection cuts short is none."""
    return await reader.readuntil(b"\n")
