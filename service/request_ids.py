"""Request ids: the caller's own, or made here; by them an answer is found in logs and traces."""

from __future__ import annotations

import os
import re

HEADER = "x-request-id"
"""HTTP header and gRPC metadata, of requests and of answers."""
_GOOD = re.compile(r"[A-Za-z0-9._:-]{1,128}", re.ASCII)


def request_id(sent: str | None) -> str:
    """The id that a caller sent; 16 hexadecimal digits where it sent none that can be used."""
    return sent if sent and _GOOD.fullmatch(sent) else os.urandom(8).hex()
