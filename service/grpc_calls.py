"""The calls at the gRPC door, as the first of its interceptors."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc

from service.call import Call, current_call, enter_call, leave_call
from service.calls import READ, Calls, seen_given_up
from service.grpc_locks import access_of, kind_of
from service.locks import Access
from service.request_ids import HEADER
from service.statuses import status_of


class GrpcCalls(grpc.aio.ServerInterceptor):  # type: ignore[misc]  # grpc has no types
    """Gives every call an id, and sends it back: with the status, and before what a stream says.

    A stream of requests is one call here; see `one_request` for each of them.
    """

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any
    ) -> Any:
        """Enter the call before any other interceptor looks at it."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        kind, method = kind_of(handler), handler_call_details.method
        called = self._many if handler.response_streaming else self._one
        return handler._replace(**{kind: called(getattr(handler, kind), method)})

    def _one(self, answer: Callable[[Any, Any], Awaitable[Any]], method: str) -> Any:
        async def called(request: Any, context: Any) -> Any:
            call = self._begin(context, method)
            if call.watched:
                context.add_done_callback(lambda _: _end(call))
            with seen_given_up():
                return await answer(request, context)

        return called

    def _many(self, answers: Callable[[Any, Any], AsyncIterator[Any]], method: str) -> Any:
        async def called(request: Any, context: Any) -> AsyncIterator[Any]:
            call = self._begin(context, method)
            if call.watched:
                context.add_done_callback(lambda _: _end_failed(call))
            await context.send_initial_metadata(((HEADER, call.id),))
            async for answer in answers(request, context):
                yield answer

        return called

    def _begin(self, context: Any, method: str) -> Call:
        sent = {key: value for key, value in context.invocation_metadata() or () if key in READ}
        watched = self._calls.watches and access_of(method) is not Access.OPEN
        call = self._calls.begin(sent, "grpc", method.rpartition("/")[2], watched)
        context.set_trailing_metadata(((HEADER, call.id),))
        enter_call(call)  # never left: the task ends with it
        return call


@contextmanager
def one_request() -> Iterator[None]:
    """One of the requests of a stream: a line and spans of its own, by the id of the stream."""
    stream = current_call()
    if stream is None or not stream.watched:
        yield
        return
    sent = {**stream.sent, HEADER: stream.id}
    call = stream.calls.begin(sent, stream.door, stream.path, watched=True)
    entered = enter_call(call)
    try:
        with seen_given_up():
            yield
    finally:
        leave_call(entered)
        _end(call)


def _end(call: Call) -> None:
    call.calls.end(call, status_of(call.error).grpc if call.error else "OK")


def _end_failed(call: Call) -> None:
    if call.error:  # its requests have lines of their own
        _end(call)
