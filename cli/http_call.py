"""One call of a server's own HTTP interface; its errors as the domain's."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cli.predict_client import ERRORS
from models.errors import InvalidInput, OfframpError, Unavailable

SECONDS = 60


async def http_call(
    method: str, url: str, path: str, key: str | None, ca: Path | None, body: Any = None
) -> Any:
    """Send a request; returns the JSON document of the answer.

    Parameters
    ----------
    url : http:// or https://, a host and a port
    key : sent as `Authorization: Bearer`
    ca : PEM file of the authorities that the server's certificate is checked with

    Raises
    ------
    OfframpError
        When the URL is none, nobody answers, or the server refuses.
    """
    from aiohttp import ClientError, ClientSession, ClientTimeout

    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise InvalidInput(
            f"URL: found {url!r}, expected http:// or https:// with a host and a port, such as "
            "http://localhost:3000"
        )
    context = ssl.create_default_context(cafile=ca) if parts.scheme == "https" else None
    headers = {"authorization": f"Bearer {key}"} if key else {}
    try:
        async with (
            ClientSession(timeout=ClientTimeout(SECONDS), headers=headers) as session,
            session.request(
                method, f"{url.rstrip('/')}/{path}", json=body, ssl=context or True
            ) as response,
        ):
            document = await response.json(content_type=None)
    except (ClientError, OSError, TimeoutError, ValueError) as error:
        raise Unavailable(
            f"found no offramp server at {url}: {error or type(error).__name__}; check the address "
            "and the port, and whether it speaks TLS (https; --ca names its authority)"
        ) from None
    if response.status >= 400:
        told = document.get("error") if isinstance(document, dict) else None
        raise ERRORS.get(str(response.status), OfframpError)(told or f"status {response.status}")
    return document
