"""What a model has answered, as Triton's message for it."""

from __future__ import annotations

from typing import Any

from tritonclient.grpc import service_pb2 as pb

from service.dataplane import Dataplane
from service.statistics import Timed


def model_statistics(plane: Dataplane) -> Any:
    """The `ModelStatistics` of a loaded model, since it was loaded.

    `inference_count` counts rows and `execution_count` requests. Rows of one request run in batches
    of many, so that waiting and computing are one time: `compute_infer` holds both.
    """
    statistics = plane.statistics
    return pb.ModelStatistics(
        name=plane.name,
        version=plane.version,
        last_inference=statistics.last_request,
        inference_count=statistics.rows,
        execution_count=statistics.engine.count,
        inference_stats=pb.InferStatistics(
            success=_duration(statistics.success),
            fail=_duration(statistics.failure),
            compute_input=_duration(statistics.encoding),
            compute_infer=_duration(statistics.engine),
        ),
    )


def _duration(timed: Timed) -> Any:
    return pb.StatisticDuration(count=timed.count, ns=timed.nanoseconds)
