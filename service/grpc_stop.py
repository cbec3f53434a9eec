"""The gRPC door while the server stops, as an interceptor."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc

from models.errors import Unavailable
from service.grpc_locks import INFERENCE, LIVENESS, kind_of
from service.in_flight import InFlight
from service.rpc_errors import abort


class GrpcStop(grpc.aio.ServerInterceptor):  # type: ignore[misc]  # grpc has no types
    """Refuses calls with UNAVAILABLE when the server stops; what is accepted is answered.

    A call is accepted when its first message has come. Health passes always, to say that nothing is
    served, and nobody waits for the end of reflection.
    """

    def __init__(self, in_flight: InFlight) -> None:
        self._in_flight = in_flight

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any
    ) -> Any:
        """Count the call from its first message to its end."""
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None or not method.startswith(INFERENCE) or method in LIVENESS:
            return handler
        kind = kind_of(handler)
        counted = self._many if handler.response_streaming else self._one
        return handler._replace(**{kind: counted(getattr(handler, kind))})

    def _one(self, answer: Callable[[Any, Any], Awaitable[Any]]) -> Any:
        async def counted(request: Any, context: Any) -> Any:
            try:
                async with self._in_flight.request(accepted=True):
                    return await answer(request, context)
            except Unavailable as error:
                await abort(context, error)

        return counted

    def _many(self, answers: Callable[[Any, Any], AsyncIterator[Any]]) -> Any:
        async def counted(request: Any, context: Any) -> AsyncIterator[Any]:
            try:
                async with self._in_flight.request(accepted=True):
                    async for answer in answers(request, context):
                        yield answer
            except Unavailable as error:
                await abort(context, error)

        return counted
