"""One call of `ModelStreamInfer`: requests come, and their rows' answers go as the rows leave."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

from tritonclient.grpc import service_pb2 as pb

from models.errors import InvalidInput, Unavailable
from service.grpc_calls import one_request
from service.inference import infer_stream
from service.oip_protobuf import read_request, write_response
from service.repository import Repository
from service.rpc_deadline import within
from service.statuses import message_of
from service.tensors import Tensor

REQUESTS = 64
"""Of one call at the same time; the next is not read before one of them is answered."""
FINAL = "triton_final_response"
EMPTY_FINAL = "triton_enable_empty_final_response"


class OipStream:
    """Answers the requests of one call side by side.

    A request that fails is told so by a response of its own, and the others go on. The last
    response of each request says so by a parameter; clients may ask for an empty one that does.

    Parameters
    ----------
    context : of the call
    """

    def __init__(self, repository: Repository, context: Any) -> None:
        self._repository = repository
        self._context = context
        self._room = asyncio.Semaphore(REQUESTS)
        self._sending = asyncio.Lock()
        self._reader: asyncio.Task[None] | None = None
        self._damage: InvalidInput | None = None

    async def run(self, messages: AsyncIterator[Any]) -> None:
        """Until the client has sent its last request, and all are answered.

        Raises
        ------
        InvalidInput
            When the client has sent what is no message; what was read before has been answered.
        Unavailable
            When `end` was called; what was read before has been answered.
        """
        async with asyncio.TaskGroup() as group:
            self._reader = group.create_task(self._read(messages, group))
        if self._damage:
            raise self._damage
        if self._reader.cancelled():
            raise Unavailable("the service is stopping: send the next request to another instance")

    def end(self) -> None:
        """Read no further request."""
        if self._reader:
            self._reader.cancel()

    async def _read(self, messages: AsyncIterator[Any], group: asyncio.TaskGroup) -> None:
        try:
            async for message in messages:
                await self._room.acquire()
                group.create_task(self._answer(message))
        except InvalidInput as error:  # raised here it would cancel the others
            self._damage = error

    async def _answer(self, message: Any) -> None:
        try:
            with one_request():
                await self._answer_or_tell(message)
        finally:
            self._room.release()

    async def _answer_or_tell(self, message: Any) -> None:
        try:
            await self._answer_in_parts(message)
        except Exception as error:
            named = write_response(message, "", (), {FINAL: True})
            await self._send(
                pb.ModelStreamInferResponse(error_message=message_of(error), infer_response=named)
            )

    async def _answer_in_parts(self, message: Any) -> None:
        plane = self._repository.model(message.model_name, message.model_version)
        with plane.counted():
            request = within(read_request(message), self._context.time_remaining())
        wants_empty = request.parameters.get(EMPTY_FINAL) is True
        version, answered = plane.version, 0
        async with aclosing(infer_stream(plane, request)) as parts:
            async for tensors in parts:
                answered += len(tensors[-1].array)
                last = answered == len(request.inputs[0].array)
                await self._send_part(message, version, tensors, last and not wants_empty)
        if wants_empty:
            await self._send_part(message, version, [], True)

    async def _send_part(
        self, message: Any, version: str, tensors: list[Tensor], final: bool
    ) -> None:
        response = write_response(message, version, tensors, {FINAL: final})
        await self._send(pb.ModelStreamInferResponse(infer_response=response))

    async def _send(self, response: Any) -> None:
        async with self._sending:  # a call takes one message at a time
            await self._context.write(response)
