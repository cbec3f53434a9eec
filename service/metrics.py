"""The service's Prometheus metrics. Every label has few values, whatever clients send."""

from __future__ import annotations

import os

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

STAGE_SECONDS = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10)
REQUEST_SECONDS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30)


class Metrics:
    """Counters of one service.

    BentoML runs prometheus_client in multiprocess mode: every gauge names its mode, and values are
    collected from all processes.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "offramp_requests",
            "Requests, by the reason of their failure or ok",
            ["outcome"],
            registry=self.registry,
        )
        self.request_seconds = Histogram(
            "offramp_request_seconds",
            "Time from a request's arrival in the dataplane to its answer",
            buckets=REQUEST_SECONDS,
            registry=self.registry,
        )
        self.rows = Counter("offramp_rows", "Rows answered", registry=self.registry)
        self.exits = Counter(
            "offramp_exits", "Rows by the exit they left at", ["exit"], registry=self.registry
        )
        self.stage_seconds = Histogram(
            "offramp_stage_seconds",
            "Time of one run of a stage",
            ["stage"],
            buckets=STAGE_SECONDS,
            registry=self.registry,
        )
        self.queue_rows = Gauge(
            "offramp_queue_rows",
            "Rows admitted and not yet answered",
            multiprocess_mode="livesum",
            registry=self.registry,
        )

    def exposition(self) -> bytes:
        """The metrics in Prometheus' text format, over all processes of the server."""
        if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
            return generate_latest(self.registry)
        everything = CollectorRegistry()
        MultiProcessCollector(everything)  # type: ignore[no-untyped-call]
        return generate_latest(everything)
