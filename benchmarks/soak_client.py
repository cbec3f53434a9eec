"""The clients of all doors: send what the mix has, and say what became of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import grpc
from soak_http import HttpClient, Lost, NotTaken, Response
from soak_mix import Asked, HttpMessage, RpcMessage
from soak_parts import Part, binary_parts, json_parts, line_parts, rest_parts, rpc_part
from tritonclient.grpc.aio import InferenceServerClient
from tritonclient.utils import InferenceServerException

LIMIT_SECONDS = 60.0
"""After which an answer counts as lost."""
RECONNECT_MS = 100
CHANNEL = [
    ("grpc.initial_reconnect_backoff_ms", RECONNECT_MS),
    ("grpc.min_reconnect_backoff_ms", RECONNECT_MS),
    ("grpc.max_reconnect_backoff_ms", 5 * RECONNECT_MS),
    ("grpc.max_receive_message_length", -1),
    ("grpc.enable_retries", 0),  # what the server refuses is to be seen
    ("grpc.use_local_subchannel_pool", 1),
]
REFUSED_STREAM = "received rst_stream with error code 7"
"""In gRPC's own words about a call that the server's transport has not let in."""
CUT_SHORT = "internal error from core"
"""What grpc.aio says where a call ended before its message was sent; the call's status is lost."""
NEVER_SENT = ("failed to connect", "connection refused", "goaway")
"""In gRPC's own words about a call that no server has taken."""


class Outcome(StrEnum):
    """What became of a request."""

    ANSWERED = "answered"
    WRONG = "wrong"
    """Answered, but not as the bundle answers offline."""
    REFUSED = "refused"
    """429 or RESOURCE_EXHAUSTED."""
    UNAVAILABLE = "unavailable"
    """503 or UNAVAILABLE, in the service's own words."""
    LATE = "late"
    """504 or DEADLINE_EXCEEDED: no answer by the deadline."""
    NOT_TAKEN = "not taken"
    """The connection was refused, or ended before the server had the whole request."""
    LOST = "lost"
    """The server had the request and gave no whole answer."""
    FAILED = "failed"
    """Any other error."""


BY_STATUS = {
    429: Outcome.REFUSED,
    503: Outcome.UNAVAILABLE,
    504: Outcome.LATE,
    "RESOURCE_EXHAUSTED": Outcome.REFUSED,
    "DEADLINE_EXCEEDED": Outcome.LATE,
}


@dataclass(frozen=True)
class Reply:
    """words : of an error."""

    outcome: Outcome
    parts: Sequence[Part] = ()
    words: str = ""


class Client:
    """Asks one server.

    Parameters
    ----------
    labels : names, in the order of the bundle
    """

    def __init__(self, http: int, grpc: int, labels: Sequence[str]) -> None:
        self._http = HttpClient(http)
        self._rpc = InferenceServerClient(f"127.0.0.1:{grpc}", channel_args=CHANNEL)
        self._labels = labels

    async def ask(self, asked: Asked) -> Reply:
        """Send a request, and wait for what becomes of it; never raises."""
        try:
            async with asyncio.timeout(LIMIT_SECONDS):
                if isinstance(asked.message, HttpMessage):
                    return await self._post(asked, asked.message)
                return await self._call(asked, asked.message)
        except NotTaken as error:
            return Reply(Outcome.NOT_TAKEN, words=str(error))
        except Lost as error:
            return Reply(Outcome.LOST, words=str(error))
        except TimeoutError:
            return Reply(Outcome.LOST, words=f"no answer in {LIMIT_SECONDS:.0f} s")

    async def close(self) -> None:
        """Close all connections."""
        await self._http.close()
        await self._rpc.close()

    async def _post(self, asked: Asked, message: HttpMessage) -> Reply:
        response = await self._http.post(message.path, message.headers, message.body)
        if response.status != 200:
            words = response.body.decode(errors="replace")
            return Reply(BY_STATUS.get(response.status, Outcome.FAILED), words=words)
        return self._read(asked, response)

    def _read(self, asked: Asked, response: Response) -> Reply:
        if asked.door == "predict":
            return Reply(Outcome.ANSWERED, json_parts(response.body, self._labels))
        if asked.door == "predict lines":
            parts, error = line_parts(response.body, self._labels)
            return _told(error, "") if error else Reply(Outcome.ANSWERED, parts)
        length = response.headers.get("inference-header-content-length")
        if length is None:
            return Reply(Outcome.ANSWERED, rest_parts(response.body))
        return Reply(Outcome.ANSWERED, binary_parts(response.body, int(length)))

    async def _call(self, asked: Asked, message: RpcMessage) -> Reply:
        try:
            if asked.door == "gRPC stream":
                return await self._stream(message)
            result = await self._rpc.infer(**message.arguments)
        except InferenceServerException as error:
            return _told(error.message() or "", error.status() or "")
        except grpc.RpcError as error:  # of a stream, as gRPC raises it
            return _told(error.details() or "", error.code().name)
        return Reply(Outcome.ANSWERED, [rpc_part(result)])

    async def _stream(self, message: RpcMessage) -> Reply:
        parts: list[Part] = []
        async for result, error in self._rpc.stream_infer(_requests(message)):
            if error is not None:
                return _told(error.message() or "", "")
            parts.append(rpc_part(result))
        return Reply(Outcome.ANSWERED, parts)


async def _requests(message: RpcMessage) -> AsyncIterator[dict[str, Any]]:
    yield dict(message.arguments)


def _told(words: str, status: str) -> Reply:
    """What an error means, by its status, or by its words where a stream has no status."""
    name, small = status.rpartition(".")[2], words.lower()
    if name in BY_STATUS:
        return Reply(BY_STATUS[name], words=words)
    if words.startswith("the service is"):
        return Reply(Outcome.UNAVAILABLE, words=words)
    if name == "INTERNAL" and small == CUT_SHORT:
        return Reply(Outcome.NOT_TAKEN, words=words)
    if name == "UNAVAILABLE" and REFUSED_STREAM in small:
        return Reply(Outcome.REFUSED, words=words)
    if name == "UNAVAILABLE":
        never = any(known in small for known in NEVER_SENT)
        return Reply(Outcome.NOT_TAKEN if never else Outcome.LOST, words=words)
    if name in ("", "UNKNOWN") and "try again" in small:
        return Reply(Outcome.REFUSED, words=words)
    if not name and "deadline" in small:
        return Reply(Outcome.LATE, words=words)
    return Reply(Outcome.FAILED, words=f"{name} {words}")
