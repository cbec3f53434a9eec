"""The exporter of spans, which BentoML opens as its `tracing` options say."""

from __future__ import annotations

import threading

from bentoml._internal.configuration.containers import BentoMLContainer

from models.errors import SettingsError
from service.tracing import Tracing

FLUSH_SECONDS = 2.0


def open_tracing() -> Tracing | None:
    """Over BentoML's tracer provider; None where its options name no exporter."""
    if BentoMLContainer.tracing.exporter_type.get() is None:
        return None
    return Tracing(BentoMLContainer.tracer_provider.get().get_tracer("offramp"))


def check_tracing() -> None:
    """Open the exporter, if there is to be one.

    Raises
    ------
    SettingsError
        When it cannot be opened, as when its package is missing.
    """
    try:
        open_tracing()
    except Exception as error:  # BentoML and the exporters have no common one
        raise SettingsError(
            f"tracing: found options whose exporter cannot be opened ({error}); expected its "
            "package to be installed, as opentelemetry-exporter-otlp-proto-http for OTLP over "
            "HTTP, and its protocol to be named: see docs/tracing.md"
        ) from error


def flush_tracing() -> None:
    """Export what has ended: a process that a signal ends runs no exit handlers."""
    if open_tracing() is None:
        return
    provider = BentoMLContainer.tracer_provider.get()
    # an exporter that finds no collector goes on trying for longer than a stop may take
    exporting = threading.Thread(target=provider.force_flush, daemon=True)
    exporting.start()
    exporting.join(FLUSH_SECONDS)
