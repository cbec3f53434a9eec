"""The calls of a server: how they begin, and what is said of them when they have ended."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from time import perf_counter, time_ns

from models.errors import Cancelled, OfframpError
from service.call import Call, note_error
from service.log_lines import call_line
from service.request_ids import HEADER, request_id
from service.tracing import PARENT, Tracing

READ = frozenset({HEADER, PARENT})
"""What a call keeps of its headers or metadata."""

logger = logging.getLogger("bentoml.offramp.calls")


class Calls:
    """Gives calls their ids, and writes down the end of those that are watched.

    watches : whether any is

    Parameters
    ----------
    access_log : every watched call is a line of the log
    tracing : writes their spans; None where nothing is traced
    """

    def __init__(self, access_log: bool = False, tracing: Tracing | None = None) -> None:
        self._access_log = access_log
        self._tracing = tracing
        self.watches = access_log or tracing is not None

    def begin(self, sent: Mapping[str, str], door: str, path: str, watched: bool) -> Call:
        """A request has arrived.

        Parameters
        ----------
        sent : those of `READ`, by their names in lower case
        door : `predict`, `oip`, `grpc`, or `http` for what is none of them
        watched : whether it is worth a line or a span, unlike a probe
        """
        begun = perf_counter() * 1000
        call = Call(request_id(sent.get(HEADER)), sent, door, path, begun, time_ns(), self)
        if watched and self.watches:
            call.watched = True
            if self._tracing:
                self._tracing.begin(call)
        return call

    def end(self, call: Call, status: int | str) -> None:
        """It is answered, or given up; the status is a number of HTTP or a name of gRPC."""
        if not call.watched:
            return
        ended, reason = perf_counter() * 1000, _reason(call.error) if call.error else ""
        if self._access_log:
            logger.info("%s", call_line(call, status, reason, ended - call.begun))
        if self._tracing:
            self._tracing.end(call, status, reason, ended)
        call.error = None  # its traceback knows the call, and the request's rows with it


@contextmanager
def seen_given_up() -> Iterator[None]:
    """Let the current call know when it is cancelled in here."""
    try:
        yield
    except asyncio.CancelledError:
        note_error(Cancelled("the request was given up before its answer"))
        raise


def _reason(error: Exception) -> str:
    return error.reason if isinstance(error, OfframpError) else OfframpError.reason
