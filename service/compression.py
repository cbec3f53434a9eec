"""Compression of HTTP bodies: inflated within a bound, and compressed where a client asks for it.

`deflate` is zlib's format, as HTTP has it (RFC 9110, 8.4.1.2).
"""

from __future__ import annotations

import zlib

from models.errors import InvalidInput, PayloadTooLarge

_WINDOW_BITS = {"gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}
_FAST = 1
"""Level: answers are floats, of which higher levels make little more at many times the cost."""


class Inflater:
    """Inflates one body, chunk by chunk.

    Parameters
    ----------
    encoding : the whole header Content-Encoding
    limit : bytes of the inflated body

    Raises
    ------
    InvalidInput
        When the encoding is not known, or is a chain of several.
    """

    def __init__(self, encoding: str, limit: int) -> None:
        name = encoding.strip().lower()
        if name not in _WINDOW_BITS:
            raise InvalidInput(
                f"body: found Content-Encoding {encoding[:40]!r}, expected one of "
                f"{', '.join(_WINDOW_BITS)}, or none"
            )
        self._name = name
        self._inflater = zlib.decompressobj(_WINDOW_BITS[name])
        self._limit = self._room = limit

    def inflate(self, chunk: bytes) -> bytes:
        """What the next bytes of the body inflate to.

        Raises
        ------
        PayloadTooLarge
            When that is more than the limit; no more than it, and one byte, is ever inflated.
        InvalidInput
            When the bytes are not of this encoding, or go on behind its end.
        """
        try:
            inflated = self._inflater.decompress(chunk, self._room + 1)
        except zlib.error:
            raise InvalidInput(
                f"body: found bytes that are no {self._name}, though Content-Encoding says so"
            ) from None
        self._room -= len(inflated)
        if self._room < 0:
            raise PayloadTooLarge(
                f"body: found over {self._limit} bytes inflated; send fewer rows per request"
            )
        if self._inflater.unused_data:
            raise InvalidInput(f"body: found bytes behind the end of its {self._name}")
        return inflated

    def check_complete(self) -> None:
        """Refuse a body that was cut short."""
        if not self._inflater.eof:
            raise InvalidInput(f"body: its {self._name} is cut short, expected all of it")


def accepted(header: str) -> str | None:
    """The encoding to answer in, by the header Accept-Encoding; None for none.

    gzip where the client takes both.
    """
    weights = {}
    for part in header.split(","):
        name, _, weight = part.partition(";")
        weights[name.strip().lower()] = weight.replace(" ", "").lower()
    taken = (name for name in _WINDOW_BITS if name in weights and not _is_zero(weights[name]))
    return next(taken, None)


def compress(content: bytes, encoding: str) -> bytes:
    """The content in `gzip` or `deflate`."""
    return zlib.compress(content, _FAST, _WINDOW_BITS[encoding])


def _is_zero(weight: str) -> bool:
    """Whether a weight such as `q=0.0` says that the encoding is not wanted."""
    return weight.startswith("q=0") and not weight.removeprefix("q=0").strip(".0")
