"""The locks and the cap at the gRPC door, as interceptors: the locks first, then the cap."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc

from models.errors import OfframpError, Overloaded
from service.locks import Access, Locks
from service.rpc_errors import abort

INFERENCE = "/inference.GRPCInferenceService/"
HEALTH = "/grpc.health.v1.Health/"
LIVENESS = frozenset({INFERENCE + "ServerLive", INFERENCE + "ServerReady"})
REPOSITORY_CALLS = frozenset(
    {INFERENCE + "RepositoryModelLoad", INFERENCE + "RepositoryModelUnload"}
)


def access_of(method: str) -> Access:
    """What a call asks for; `method` is its whole path.

    Probes have no key, so health is open. Reflection is not: no probe needs it, and tools that do
    can send a key.
    """
    if method in REPOSITORY_CALLS:
        return Access.ADMIN
    if _is_health(method):
        return Access.OPEN
    return Access.INFER


class GrpcLocks(grpc.aio.ServerInterceptor):  # type: ignore[misc]  # grpc has no types
    """Lets calls through that have the key they need, in the metadata `authorization`."""

    def __init__(self, locks: Locks) -> None:
        self._locks = locks

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any
    ) -> Any:
        """Refuse with UNAUTHENTICATED or PERMISSION_DENIED before a message is read."""
        sent = {key: value for key, value in handler_call_details.invocation_metadata}
        try:
            self._locks.check(access_of(handler_call_details.method), sent.get("authorization"))
        except OfframpError as error:
            return _refusing(error)
        return await continuation(handler_call_details)


class GrpcCap(grpc.aio.ServerInterceptor):  # type: ignore[misc]  # grpc has no types
    """Refuses calls with RESOURCE_EXHAUSTED while as many as the limit are being answered.

    A stream is one call for as long as it is open. Health passes always, which it would not with
    grpc's own `maximum_concurrent_rpcs`: a server that is busy must not look dead.

    Parameters
    ----------
    limit : calls that are answered at the same time
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._answering = 0

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any
    ) -> Any:
        """Count the call from its first message to its end."""
        handler = await continuation(handler_call_details)
        if handler is None or _is_health(handler_call_details.method):
            return handler
        kind = kind_of(handler)
        counted = self._many if handler.response_streaming else self._one
        return handler._replace(**{kind: counted(getattr(handler, kind))})

    def _one(self, answer: Callable[[Any, Any], Awaitable[Any]]) -> Any:
        async def counted(request: Any, context: Any) -> Any:
            await self._take_place(context)
            return await answer(request, context)

        return counted

    def _many(self, answers: Callable[[Any, Any], AsyncIterator[Any]]) -> Any:
        async def counted(request: Any, context: Any) -> AsyncIterator[Any]:
            await self._take_place(context)
            async for answer in answers(request, context):
                yield answer

        return counted

    async def _take_place(self, context: Any) -> None:
        if self._answering >= self._limit:
            await abort(
                context,
                Overloaded(f"{self._limit} calls are being answered; try again in a moment"),
            )
        self._answering += 1
        # unlike a `finally` in a generator, this comes however the call ends
        context.add_done_callback(self._give_place)

    def _give_place(self, _: Any) -> None:
        self._answering -= 1


def kind_of(handler: Any) -> str:
    """The attribute of an RPC's handler that answers it, e.g. `unary_stream`."""
    asked = "stream" if handler.request_streaming else "unary"
    return f"{asked}_stream" if handler.response_streaming else f"{asked}_unary"


def _is_health(method: str) -> bool:
    return method in LIVENESS or method.startswith(HEALTH)


def _refusing(error: OfframpError) -> Any:
    async def refuse(_: Any, context: Any) -> AsyncIterator[None]:
        await abort(context, error)
        yield  # never; but interceptors know a stream as a generator

    # for calls of every kind: it reads no message, and sends none
    return grpc.stream_stream_rpc_method_handler(refuse)
