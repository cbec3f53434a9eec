"""The domain's errors. Each class has a stable `reason`; each protocol maps them to status once."""

from __future__ import annotations


class OfframpError(Exception):
    """What a user can cause; the message says what was found, what was expected, and the way on."""

    reason = "internal"


class InvalidInput(OfframpError):
    """A request that can never be answered as it is."""

    reason = "invalid_input"


class PayloadTooLarge(OfframpError):
    """A request over a configured limit of bytes."""

    reason = "payload_too_large"


class TooSlow(OfframpError):
    """A request whose body does not come."""

    reason = "too_slow"


class NotFound(OfframpError):
    """A model, or a version of one, that this server does not have."""

    reason = "not_found"


class Unauthenticated(OfframpError):
    """A request without a key that is known here."""

    reason = "unauthenticated"


class Forbidden(OfframpError):
    """A request that this key, or this server, does not allow."""

    reason = "forbidden"


class Unsupported(OfframpError):
    """A call of the protocol that this server does not answer."""

    reason = "unsupported"


class Overloaded(OfframpError):
    """No room for the request now; the same request may succeed later.

    Parameters
    ----------
    cause : which bound it met: `rows`, `wait` or `deadline`
    retry_after : seconds after which there should be room
    """

    reason = "overloaded"

    def __init__(self, message: str, cause: str = "rows", retry_after: float = 1.0) -> None:
        super().__init__(message)
        self.cause = cause
        self.retry_after = retry_after


class DeadlineExceeded(OfframpError):
    """The deadline passed, or was bound to pass, before the row had any answer."""

    reason = "deadline"


class Cancelled(OfframpError):
    """The client no longer waits for the answer."""

    reason = "cancelled"


class Unavailable(OfframpError):
    """The service is starting, stopping or broken."""

    reason = "unavailable"


class BundleError(OfframpError):
    """A bundle that is missing, altered or not ours; or one that must not be overwritten."""

    reason = "bundle"


class SettingsError(OfframpError):
    """A setting of the service that cannot be used."""

    reason = "settings"


class GraphError(OfframpError):
    """A model graph that cannot be split where it was asked to be."""

    reason = "graph"


class CalibrationError(OfframpError):
    """Data or options that calibration cannot work with."""

    reason = "calibration"
