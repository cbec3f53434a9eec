"""The body of an HTTP request, read whole and inflated, and never beyond its limit."""

from __future__ import annotations

import asyncio

from starlette.requests import ClientDisconnect, Request

from models.errors import Cancelled, PayloadTooLarge, TooSlow
from service.compression import Inflater

BODY_SECONDS = 20.0
"""For a body to come: who sends it slower holds a place that others wait for."""


async def read_body(request: Request, limit: int) -> bytes:
    """The whole body, refused as soon as it is known to be over the limit.

    Raises
    ------
    PayloadTooLarge
        When it has more than `limit` bytes, as it comes or inflated.
    InvalidInput
        When its Content-Encoding is not known, or not what the body is in.
    TooSlow
        When it has not come after `BODY_SECONDS`.
    Cancelled
        When the client goes away before its end.
    """
    too_large = PayloadTooLarge(f"body: found over {limit} bytes; send fewer rows per request")
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced[:19]) > limit:
        raise too_large
    inflater = _inflater(request, limit)
    chunks: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in request.stream():
                size += len(chunk)
                if size > limit:
                    raise too_large
                if chunk:  # the last is empty; alone, a chunk is not copied
                    chunks.append(inflater.inflate(chunk) if inflater else chunk)
    except TimeoutError:
        raise TooSlow(
            f"body: found {size} bytes after {BODY_SECONDS:g} s, expected all of them; send it at "
            "once"
        ) from None
    except ClientDisconnect:
        raise Cancelled("the client went away before its request was complete") from None
    if inflater:
        inflater.check_complete()
    return b"".join(chunks)


def _inflater(request: Request, limit: int) -> Inflater | None:
    encoding = ", ".join(request.headers.getlist("content-encoding"))
    return None if encoding.strip().lower() in ("", "identity") else Inflater(encoding, limit)
