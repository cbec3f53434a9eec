"""Bytes that are no message: refused in our words, where gRPC would tell the library's."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from models.errors import InvalidInput
from service.grpc_locks import kind_of
from service.rpc_errors import abort

DAMAGED = object()
"""In the place of a message that cannot be read."""


class GrpcDecoding(grpc.aio.ServerInterceptor):  # type: ignore[misc]  # grpc has no types
    """Answers a call whose message cannot be read with INVALID_ARGUMENT."""

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any
    ) -> Any:
        """Read the call's messages so that damage is seen."""
        handler = await continuation(handler_call_details)
        if handler is None or handler.request_deserializer is None:
            return handler
        kind = kind_of(handler)
        wrap = _many if handler.response_streaming else _one
        # no protocol here answers a stream of messages with a single one
        seen = _seen_in_stream if handler.request_streaming else _seen
        return handler._replace(
            request_deserializer=_reading(handler.request_deserializer),
            **{kind: wrap(getattr(handler, kind), seen)},
        )


def _reading(deserialize: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    def read(content: bytes) -> Any:
        try:
            return deserialize(content)
        except DecodeError:
            return DAMAGED

    return read


def _one(answer: Callable[[Any, Any], Awaitable[Any]], seen: Callable[[Any], Any]) -> Any:
    async def checked(request: Any, context: Any) -> Any:
        try:
            request = seen(request)
        except InvalidInput as error:
            await abort(context, error)
        return await answer(request, context)

    return checked


def _many(answers: Callable[[Any, Any], AsyncIterator[Any]], seen: Callable[[Any], Any]) -> Any:
    async def checked(request: Any, context: Any) -> AsyncIterator[Any]:
        try:
            async for answer in answers(seen(request), context):
                yield answer
        except InvalidInput as error:
            await abort(context, error)

    return checked


def _seen(message: Any) -> Any:
    if message is DAMAGED:
        raise InvalidInput("found bytes that are no message of this call, expected protobuf")
    return message


async def _seen_in_stream(messages: AsyncIterator[Any]) -> AsyncIterator[Any]:
    async for message in messages:
        yield _seen(message)
