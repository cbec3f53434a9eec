"""What a test sees of tracing: the spans that would be exported, in memory."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, Sampler

from service.tracing import Tracing

REQUEST = "request"


class Spans(SpanExporter):
    """Keeps the spans; a request's own comes last."""

    def __init__(self) -> None:
        self._spans: list[ReadableSpan] = []
        self._changed = threading.Condition()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        with self._changed:
            self._spans += spans
            self._changed.notify_all()
        return SpanExportResult.SUCCESS

    def tracing(self, sampler: Sampler = ALWAYS_ON) -> Tracing:
        """Tracing that ends here."""
        provider = TracerProvider(sampler=sampler, shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self))
        return Tracing(provider.get_tracer("offramp"))

    def requests(self, count: int) -> list[ReadableSpan]:
        """The first `count` requests, when they have ended."""
        with self._changed:
            arrived = self._changed.wait_for(lambda: len(self._of_requests()) >= count, timeout=60)
            assert arrived, [span.name for span in self._spans]
            return self._of_requests()

    def request(self) -> ReadableSpan:
        """The only request."""
        (span,) = self.requests(1)
        return span

    def below(self, parent: ReadableSpan) -> list[ReadableSpan]:
        """Its children, in order of their beginning."""
        children = [
            span
            for span in self._spans
            if span.parent and span.parent.span_id == parent.context.span_id
        ]
        return sorted(children, key=lambda span: (span.start_time, span.end_time))

    def _of_requests(self) -> list[ReadableSpan]:
        return [span for span in self._spans if span.name == REQUEST]


def facts(span: ReadableSpan) -> dict[str, Any]:
    """Its attributes, ours without their prefix."""
    return {key.removeprefix("offramp."): value for key, value in (span.attributes or {}).items()}
