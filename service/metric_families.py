"""The Prometheus metrics of the service. Every label has few values, whatever clients send."""

from __future__ import annotations

from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge

from service.histogram import BulkHistogram

STAGE_SECONDS = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10)
LATENCY_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
SCORES = tuple(k / 20 for k in range(1, 21))
SHARES = tuple(k / 10 for k in range(1, 11))
BATCH_ROWS = tuple(2**k for k in range(11))


class MetricFamilies:
    """All of them, each with the label `model`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self._make_request_metrics()
        self._make_stage_metrics()
        self._make_monitor_metrics()

    def _make_request_metrics(self) -> None:
        self.requests = self._counter("requests", "Requests, by ok or why they failed", "outcome")
        self.rows = self._counter("rows", "Rows that are done with, by outcome", "outcome")
        self.refused = self._counter("refused_rows", "Rows refused, by cause", "cause")
        self.failed = self._counter("failed_rows", "Rows that failed, by reason", "reason")
        self.exits = self._counter("exits", "Rows answered, by the exit they left at", "exit")
        self.latency = self._histogram(
            "latency_seconds", "A row's time from arrival to answer", LATENCY_SECONDS, "exit"
        )
        self.deadline_answers = self._counter(
            "deadline_answers", "Rows that left early to be in time"
        )
        self.overload_answers = self._counter(
            "overload_answers", "Rows that left early as the service was overloaded"
        )
        self.loads = self._counter("loads", "Times that a bundle was read again", "outcome")

    def _make_stage_metrics(self) -> None:
        self.score = self._histogram("score", "Scores of all rows at an exit", SCORES, "exit")
        self.stage_seconds = self._histogram(
            "stage_seconds", "Time of one run of a stage", STAGE_SECONDS, "stage"
        )
        self.batch_rows = self._histogram("batch_rows", "Rows of a batch", BATCH_ROWS, "stage")
        self.batch_fill = self._histogram(
            "batch_fill", "Rows of a batch, as a share of a full one", SHARES, "stage"
        )
        self.saved = self._counter(
            "stage_seconds_saved", "Time of stages that rows did not need against full depth"
        )
        self.cancelled = self._counter(
            "cancelled_rows",
            "Rows given up by their clients, by the stage they waited for",
            "stage",
        )
        self.queue_rows = self._gauge("queue_rows", "Rows that wait for a stage", "stage")
        self.queue_age = self._gauge(
            "queue_age_seconds",
            "Time that the first row waiting for a stage has waited",
            "stage",
        )

    def _make_monitor_metrics(self) -> None:
        self.shadow_rows = self._counter("shadow_rows", "Rows run to the end in the shadow")
        self.policy_certified = self._gauge(
            "policy_certified", "1: the certified policy is served; 0: full depth"
        )
        self.fallbacks = self._counter("fallbacks", "Times that it fell back to full depth")
        self.monitor_rows = self._counter(
            "monitor_rows", "Rows drawn for the monitor, by what came of them", "outcome"
        )
        self.monitor_loss = self._gauge(
            "monitor_loss", "Mean loss of the rows compared of late", "promise"
        )
        self.monitor_limit = self._gauge(
            "monitor_limit", "What the mean loss may be at most", "promise"
        )
        self.evidence = self._gauge(
            "monitor_evidence", "E-value: evidence that more is lost than promised"
        )
        self.alarm_at = self._gauge(
            "monitor_alarm_evidence", "E-value at which it falls back to full depth"
        )
        self.state_errors = self._counter(
            "monitor_state_errors", "Times that the monitor's state could not be written"
        )
        self.drift = self._gauge(
            "drift_w1", "W1 of a label's probabilities to the certify split's", "label"
        )
        self.drift_noise = self._gauge(
            "drift_noise_w1", "What chance alone gives in the mean", "label"
        )
        self.score_drift = self._gauge(
            "drift_score_w1", "W1 of the answers' scores to the certify split's"
        )
        self.score_noise = self._gauge(
            "drift_score_noise_w1", "What chance alone gives in the mean"
        )

    def _counter(self, name: str, words: str, *labels: str) -> Counter:
        return Counter(f"offramp_{name}", words, ["model", *labels], registry=self.registry)

    def _histogram(
        self, name: str, words: str, buckets: Sequence[float], *labels: str
    ) -> BulkHistogram:
        return BulkHistogram(
            f"offramp_{name}", words, ["model", *labels], buckets=buckets, registry=self.registry
        )

    def _gauge(self, name: str, words: str, *labels: str) -> Gauge:
        return Gauge(f"offramp_{name}", words, ["model", *labels], registry=self.registry)
