"""A call: one request at a door, from its arrival to its end, and what becomes known of it.

The code that handles a request finds its call by `current_call`, without passing it along.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from service.trace import Trace

if TYPE_CHECKING:
    from opentelemetry.trace import Span

    from service.calls import Calls


@dataclass(slots=True, eq=False)
class Call:
    """What a line of the log and a span say.

    id : of the request
    sent : headers or metadata of the caller, those of `service.calls.READ`
    begun : of its arrival, milliseconds of `perf_counter`, which is the engine's clock
    begun_ns : likewise, nanoseconds since 1970
    calls : of its server
    watched : somebody wants to know the fields below
    span : the call's, where it is traced; `trace` is what the engine adds to it
    policy : in force for its rows
    exits : how many rows were answered by which exit
    error : the last that the client was told, until the end
    """

    id: str
    sent: Mapping[str, str]
    door: str
    path: str
    begun: float
    begun_ns: int
    calls: Calls
    watched: bool = False
    span: Span | None = None
    trace: Trace | None = None
    model: str = ""
    version: str = ""
    rows: int = 0
    policy: str = ""
    exits: Counter[int] = field(default_factory=Counter)
    error: Exception | None = None

    @property
    def tags(self) -> str:
        """The end of a line of the log that says whose it is, e.g. ` request_id=5f0c`."""
        if self.span is None:
            return f" request_id={self.id}"
        return f" request_id={self.id} trace_id={self.span.get_span_context().trace_id:032x}"

    @property
    def exit_counts(self) -> str:
        """Rows by exit, e.g. `1:3,4:1`."""
        return ",".join(f"{number}:{rows}" for number, rows in sorted(self.exits.items()))


_CURRENT: ContextVar[Call | None] = ContextVar("offramp_call", default=None)
current_call = _CURRENT.get
enter_call = _CURRENT.set
leave_call = _CURRENT.reset


def note_model(name: str, version: str) -> None:
    """Whose request it is."""
    call = current_call()
    if call is not None:
        call.model, call.version = name, version


def note_answers(exits: np.ndarray) -> None:
    """Rows were answered: int (b,), the exit of each."""
    call = current_call()
    if call is not None and call.watched:
        call.exits.update(exits.tolist())


def note_error(error: Exception) -> None:
    """The client is told of it."""
    call = current_call()
    if call is not None and call.watched:
        call.error = error
