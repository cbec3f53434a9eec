"""How domain errors are told: one table of HTTP and gRPC status for all doors."""

from __future__ import annotations

from dataclasses import dataclass

from models.errors import (
    Cancelled,
    DeadlineExceeded,
    Forbidden,
    InvalidInput,
    NotFound,
    OfframpError,
    Overloaded,
    PayloadTooLarge,
    TooSlow,
    Unauthenticated,
    Unavailable,
    Unsupported,
)
from service.call import current_call, note_error
from service.log_lines import named_logger

logger = named_logger("bentoml.offramp.doors")


@dataclass(frozen=True)
class Status:
    """http : the status code
    grpc : the name of a member of `grpc.StatusCode`
    """

    http: int
    grpc: str


INTERNAL = Status(500, "INTERNAL")
STATUSES = {
    InvalidInput.reason: Status(400, "INVALID_ARGUMENT"),
    Unauthenticated.reason: Status(401, "UNAUTHENTICATED"),
    Forbidden.reason: Status(403, "PERMISSION_DENIED"),
    NotFound.reason: Status(404, "NOT_FOUND"),
    PayloadTooLarge.reason: Status(413, "RESOURCE_EXHAUSTED"),
    TooSlow.reason: Status(408, "DEADLINE_EXCEEDED"),
    Overloaded.reason: Status(429, "RESOURCE_EXHAUSTED"),
    Cancelled.reason: Status(499, "CANCELLED"),
    Unsupported.reason: Status(501, "UNIMPLEMENTED"),
    Unavailable.reason: Status(503, "UNAVAILABLE"),
    DeadlineExceeded.reason: Status(504, "DEADLINE_EXCEEDED"),
}


def status_of(error: Exception) -> Status:
    """The status of any error; what is not the domain's is internal."""
    return STATUSES.get(error.reason, INTERNAL) if isinstance(error, OfframpError) else INTERNAL


def message_of(error: Exception) -> str:
    """What the client is told; an internal error goes to the log, with its traceback."""
    note_error(error)
    if isinstance(error, OfframpError) and error.reason in STATUSES:
        return str(error)
    logger.error("event=internal_error error=%r", repr(error), exc_info=error)
    return "internal error: see the service's log"


def error_body(message: str) -> dict[str, str]:
    """An error as JSON, with the id by which the log knows the request."""
    call = current_call()
    return {"error": message, "request_id": call.id} if call else {"error": message}
