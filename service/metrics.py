"""The metrics of one server, over all of its models."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, disable_created_metrics, generate_latest

from service.metric_families import MetricFamilies
from service.model_metrics import ModelMetrics

disable_created_metrics()  # type: ignore[no-untyped-call]  # a series more for each, that says since when


class Metrics:
    """What a server counts."""

    def __init__(self) -> None:
        self._families = MetricFamilies(CollectorRegistry())
        self._models: dict[str, ModelMetrics] = {}

    def of(self, model: str) -> ModelMetrics:
        """The counts of one model; they go on when it is loaded again."""
        if model not in self._models:
            self._models[model] = ModelMetrics(self._families, model)
        return self._models[model]

    def exposition(self) -> bytes:
        """The metrics in Prometheus' text format."""
        for model in tuple(self._models.values()):
            model.look()
        return generate_latest(self._families.registry)
