"""The metrics of one server, over all of its models."""

from __future__ import annotations

import os

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from service.metric_families import MetricFamilies
from service.model_metrics import ModelMetrics


class Metrics:
    """What a server counts."""

    def __init__(self) -> None:
        self._families = MetricFamilies(CollectorRegistry())
        self._models: dict[str, ModelMetrics] = {}

    def of(self, model: str) -> ModelMetrics:
        """The counts of one model; they go on when it is loaded again."""
        return self._models.setdefault(model, ModelMetrics(self._families, model))

    def exposition(self) -> bytes:
        """The metrics in Prometheus' text format, over all processes of the server."""
        for model in tuple(self._models.values()):
            model.look()
        if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
            return generate_latest(self._families.registry)
        everything = CollectorRegistry()
        MultiProcessCollector(everything)  # type: ignore[no-untyped-call]
        return generate_latest(everything)
