"""Spans of OpenTelemetry: a request, its wait, the stages that its rows ran through, their exits.

A request's own span begins with it, so that lines of the log can name the trace. The others are
made when it has ended, from what the engine noted, with the true times: while rows run, nothing
is done for a span.
"""

from __future__ import annotations

from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue

from service.call import Call
from service.statuses import status_of
from service.trace import Trace

PARENT = "traceparent"
"""The caller's span, as W3C Trace Context writes it. Nothing is called from here, to which its
`tracestate` could be of use."""
SERVER_AT_FAULT = 500
_LONGEST = 128  # of what a client sends
_W3C = TraceContextTextMapPropagator()


class Tracing:
    """Writes the spans of calls.

    Parameters
    ----------
    tracer : of the provider that exports them
    """

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer

    def begin(self, call: Call) -> None:
        """Begin the span of a call, as part of the caller's trace where there is one."""
        parent = _W3C.extract(call.sent, Context())
        span = self._tracer.start_span("request", parent, SpanKind.SERVER, start_time=call.begun_ns)
        # BentoML's sampler records what it does not sample, and nobody exports that
        if span.get_span_context().trace_flags.sampled:
            call.span, call.trace = span, Trace()

    def end(self, call: Call, status: int | str, reason: str, ended: float) -> None:
        """Write all spans of a call.

        Parameters
        ----------
        status : of HTTP, a number; or of gRPC, a name
        reason : of the call's error; empty without one
        ended : milliseconds on the engine's clock
        """
        if call.span is None or call.trace is None:
            return
        call.span.set_attributes(_facts(call, status, reason))
        if call.error:
            call.span.record_exception(call.error, timestamp=_at(call, ended))
            if status_of(call.error).http >= SERVER_AT_FAULT:
                call.span.set_status(Status(StatusCode.ERROR, str(call.error)))
        self._write_parts(call, call.span, call.trace, ended)
        call.span.end(_at(call, ended))

    def _write_parts(self, call: Call, whole: Span, trace: Trace, ended: float) -> None:
        context = set_span_in_context(whole)

        def write(name: str, begun: float, ended: float, **facts: AttributeValue) -> None:
            named = {f"offramp.{key}": value for key, value in facts.items()}
            span = self._tracer.start_span(
                name, context, attributes=named, start_time=_at(call, begun)
            )
            span.end(_at(call, ended))

        if trace.queued is not None:
            first = min((run.begun for run in trace.runs), default=ended)
            write("queue", trace.queued, first, rows=call.rows)
        for run in trace.runs:
            name = f"stage {run.stage}"
            write(name, run.begun, run.ended, rows=run.rows, batch_rows=run.batch_rows)
        for left in trace.exits:
            write(
                f"exit {left.exit}",
                trace.answered(left),
                left.departed,
                rows=left.rows,
                lowest_score=left.lowest,
                highest_score=left.highest,
                left=left.why,
            )


def _facts(call: Call, status: int | str, reason: str) -> dict[str, AttributeValue]:
    of_http = isinstance(status, int)
    facts: dict[str, AttributeValue] = {
        "offramp.door": call.door,
        "offramp.request_id": call.id,
        "offramp.model": call.model,
        "offramp.version": call.version,
        "offramp.rows": call.rows,
        "offramp.policy": call.policy,
        "offramp.exits": call.exit_counts,
        "error.type": reason,
        "url.path" if of_http else "rpc.method": call.path[:_LONGEST],
        "http.response.status_code" if of_http else "rpc.response.status_code": status,
    }
    return {key: value for key, value in facts.items() if value}


def _at(call: Call, milliseconds: float) -> int:
    """Nanoseconds since 1970 of a time on the engine's clock."""
    return call.begun_ns + round((milliseconds - call.begun) * 1e6)
