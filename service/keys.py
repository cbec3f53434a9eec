"""The keys of one file: who may come in. They may be changed in the file at any time."""

from __future__ import annotations

import hmac
import logging
import re
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

from models.errors import SettingsError

LEAST_CHARACTERS = 16
LOOK_SECONDS = 1.0
KEY = re.compile(r"[!-~]+")  # what an Authorization header can carry without quoting

logger = logging.getLogger("bentoml.offramp.keys")


class Keys:
    """Keys from a file, one a line; blank lines and lines that begin with `#` do not count.

    When the file changes it is read again, at the next question, at most a second later. What
    cannot be read, or holds no key, changes nothing: the keys before it stay.

    Parameters
    ----------
    path : of the file
    variable : the setting that named it, for messages
    clock : seconds, monotonic

    Raises
    ------
    SettingsError
        When the file cannot be read at the start, holds no key, or holds one that cannot be used.
        Keys themselves are never told, nor logged.
    """

    def __init__(
        self, path: Path, variable: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._path = path
        self._variable = variable
        self._clock = clock
        # the state before the content: a change between the two is seen at the next look
        self._state = _state(path)
        self._digests = self._read()
        self._looked = clock()

    def allows(self, presented: str) -> bool:
        """Whether this is one of the keys; takes as long whichever it is, and if none."""
        self._look()
        digest = _digest(presented)
        found = False
        for known in self._digests:
            found |= hmac.compare_digest(digest, known)
        return found

    def _look(self) -> None:
        now = self._clock()
        if now - self._looked < LOOK_SECONDS:
            return
        self._looked = now
        state = _state(self._path)
        if state == self._state:
            return
        self._state = state
        try:
            self._digests = self._read()
        except SettingsError as error:
            logger.error("event=keys_not_read kept=%d reason=%r", len(self._digests), str(error))
        else:
            logger.info("event=keys_read variable=%s keys=%d", self._variable, len(self._digests))

    def _read(self) -> tuple[bytes, ...]:
        try:
            lines = self._path.read_text("utf-8-sig").splitlines()
        except OSError as error:
            raise self._error(f"cannot be read ({error.strerror})") from None
        except UnicodeDecodeError:  # it holds the text
            raise self._error("is no UTF-8 text") from None
        numbered = [(number, line.strip()) for number, line in enumerate(lines, 1)]
        keys = [(number, key) for number, key in numbered if key and not key.startswith("#")]
        for number, key in keys:
            self._check(number, key)
        if not keys:
            raise self._error("holds no key: nobody would be let in; write one key a line")
        return tuple(_digest(key) for _, key in keys)

    def _check(self, number: int, key: str) -> None:
        if len(key) < LEAST_CHARACTERS:
            raise self._error(
                f"has a key of {len(key)} characters in line {number}, expected at least "
                f"{LEAST_CHARACTERS}; `openssl rand -hex 32` makes one"
            )
        if not KEY.fullmatch(key):
            raise self._error(
                f"has a key in line {number} that no header can carry: expected visible ASCII "
                "characters without spaces"
            )

    def _error(self, found: str) -> SettingsError:
        return SettingsError(f"{self._variable}: {self._path} {found}")


def _state(path: Path) -> tuple[int, int, int] | None:
    """What changes when the file does; None when it cannot be told."""
    try:
        state = path.stat()
    except OSError:
        return None
    return state.st_mtime_ns, state.st_size, state.st_ino


def _digest(key: str) -> bytes:
    # all of one length, whatever was presented
    return sha256(key.encode("utf-8", "surrogatepass")).digest()
