"""The locks: who may do what, for both protocols."""

from __future__ import annotations

from enum import Enum
from pathlib import Path

from models.errors import Forbidden, SettingsError, Unauthenticated
from service.keys import Keys
from service.settings import Settings

SEND_A_KEY = "send Authorization: Bearer <key>"


class Access(Enum):
    """What a call asks for."""

    OPEN = "open"
    """Says nothing that a probe must not know."""
    INFER = "infer"
    """Answers, and what is to be known about models."""
    ADMIN = "admin"
    """Changes which models are served."""
    METRICS = "metrics"
    """What Prometheus reads."""


class Locks:
    """Asks for keys as the settings say.

    Without `keys_file` nobody is asked for one. Keys of `admin_keys_file` are good for everything,
    those of `keys_file` for everything but repository calls, unless there is no other file.

    Raises
    ------
    SettingsError
        When a file of keys cannot be used, or metrics shall ask for keys that there are none of.
    """

    def __init__(self, settings: Settings) -> None:
        if settings.metrics_key and settings.keys_file is None:
            raise SettingsError(
                "OFFRAMP_METRICS_KEY is true but there are no keys: set OFFRAMP_KEYS_FILE too"
            )
        self._metrics_key = settings.metrics_key
        self._clients = _keys(settings.keys_file, "OFFRAMP_KEYS_FILE")
        self._admins = _keys(settings.admin_keys_file, "OFFRAMP_ADMIN_KEYS_FILE")

    def check(self, access: Access, authorization: str | None) -> None:
        """Let the call pass, or raise.

        Parameters
        ----------
        authorization : the whole value of the header or of the metadata, `Bearer <key>`

        Raises
        ------
        Unauthenticated
            Without a key, or with one that is not known.
        Forbidden
            With a key that is known, but not good for this call.
        """
        if not self._asks(access):
            return
        key = _bearer(authorization)
        # both are looked at always: how long it takes does not tell which file knows the key
        client = self._clients is not None and self._clients.allows(key)
        admin = self._admins is not None and self._admins.allows(key)
        if admin or (client and (access is not Access.ADMIN or self._admins is None)):
            return
        if client:
            raise Forbidden("found a key that is not good for repository calls; send an admin key")
        found = "a key that is not known here" if key else "no key"
        raise Unauthenticated(f"found {found}; {SEND_A_KEY}")

    def _asks(self, access: Access) -> bool:
        if access is Access.ADMIN:
            return self._admins is not None or self._clients is not None
        if access is Access.METRICS:
            return self._metrics_key
        return access is Access.INFER and self._clients is not None


def _keys(path: Path | None, variable: str) -> Keys | None:
    return None if path is None else Keys(path, variable)


def _bearer(authorization: str | None) -> str:
    """The key, empty where there is none."""
    scheme, _, key = (authorization or "").strip().partition(" ")
    return key.strip() if scheme.lower() == "bearer" else ""
