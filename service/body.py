"""The body of an HTTP request, read whole and never beyond its limit."""

from __future__ import annotations

from starlette.requests import ClientDisconnect, Request

from models.errors import Cancelled, PayloadTooLarge


async def read_body(request: Request, limit: int) -> bytes:
    """The whole body, refused as soon as it is known to be over the limit.

    Raises
    ------
    PayloadTooLarge
        When it has more than `limit` bytes.
    Cancelled
        When the client goes away before its end.
    """
    too_large = PayloadTooLarge(f"body: found over {limit} bytes; send fewer rows per request")
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced[:19]) > limit:
        raise too_large
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > limit:
                raise too_large
    except ClientDisconnect:
        raise Cancelled("the client went away before its request was complete") from None
    return bytes(body)
