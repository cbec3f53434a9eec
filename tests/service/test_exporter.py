from __future__ import annotations

import threading
from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import pytest
from bentoml._internal.configuration.containers import BentoMLContainer
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExportResult
from simple_di import sentinel

from models.errors import SettingsError
from service import exporter
from service.calls import Calls
from service.exporter import check_tracing, flush_tracing, open_tracing
from tests.service.spans import Spans


@pytest.fixture
def options(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """BentoML's `tracing` options, for a provider that is made anew."""
    before = BentoMLContainer.config.get()
    changed = deepcopy(before)
    BentoMLContainer.config.set(changed)
    monkeypatch.setattr(BentoMLContainer.tracer_provider, "_cache", sentinel)
    yield changed["tracing"]
    BentoMLContainer.config.set(before)
    BentoMLContainer.tracer_provider.reset()


def end_one(calls: Calls) -> None:
    calls.end(calls.begin({}, "http", "/", watched=True), 200)


@pytest.mark.usefixtures("options")
def test_nothing_is_traced_unless_options_name_an_exporter() -> None:
    check_tracing()
    assert open_tracing() is None
    flush_tracing()


def test_spans_go_to_the_exporter_that_options_name(options: dict[str, Any]) -> None:
    options |= {"exporter_type": "in_memory", "sample_rate": 1.0}
    check_tracing()
    end_one(Calls(tracing=open_tracing()))
    (processor,) = BentoMLContainer.tracer_provider.get()._active_span_processor._span_processors
    flush_tracing()
    assert [span.name for span in processor.span_exporter.get_finished_spans()] == ["request"]


def test_an_exporter_that_cannot_be_opened_is_refused(options: dict[str, Any]) -> None:
    options["exporter_type"] = "otlp"  # without a protocol
    with pytest.raises(SettingsError, match=r"found options .* expected its package .* protocol"):
        check_tracing()


class StuckSpans(Spans):
    """An exporter whose collector does not answer."""

    def __init__(self) -> None:
        super().__init__()
        self.asked, self.answered = threading.Event(), threading.Event()

    def export(self, spans: Any) -> SpanExportResult:
        self.asked.set()
        assert self.answered.wait(60)
        return super().export(spans)


def test_a_collector_that_does_not_answer_does_not_hold_up_the_end(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    options["exporter_type"] = "in_memory"  # any
    monkeypatch.setattr(exporter, "FLUSH_SECONDS", 0.05)
    stuck, provider = StuckSpans(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(stuck))
    BentoMLContainer.tracer_provider.set(provider)
    end_one(Calls(tracing=open_tracing()))
    flush_tracing()
    assert stuck.asked.wait(60)
    assert not stuck.answered.is_set()
    stuck.answered.set()
    assert stuck.request().name == "request"
    provider.shutdown()
