"""How a call of gRPC fails: the domain's errors as its status."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from functools import wraps
from typing import Any, NoReturn

import grpc

from models.errors import Overloaded
from service.call import current_call
from service.request_ids import HEADER
from service.statuses import message_of, status_of

Call = Callable[[Any, Any, Any], Awaitable[Any]]
"""A servicer's method: itself, the request, the context."""


async def abort(context: Any, error: Exception) -> NoReturn:
    """End the call with the error's status; where trying again may help, it says when."""
    trailing, call = [], current_call()
    if isinstance(error, Overloaded):
        trailing.append(("retry-after", str(max(1, math.ceil(error.retry_after)))))
    if call:  # what was set before is replaced
        trailing.append((HEADER, call.id))
    code = grpc.StatusCode[status_of(error).grpc]
    await context.abort(code, message_of(error), tuple(trailing))
    raise AssertionError("abort raises")


def told(call: Call) -> Call:
    """The same call, whose errors are told to the client."""

    @wraps(call)
    async def answer(self: Any, request: Any, context: Any) -> Any:
        try:
            return await call(self, request, context)
        except grpc.aio.AbortError:
            raise
        except Exception as error:
            await abort(context, error)

    return answer
