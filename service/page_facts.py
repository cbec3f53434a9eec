"""What the playground page shows of a model, as JSON documents."""

from __future__ import annotations

from itertools import accumulate
from typing import Any

from models.manifest import Manifest
from models.measurements import Estimate, LayerProfile
from models.preprocessing import ImagePreprocessing, TextPreprocessing
from service.dataplane import Dataplane
from service.settings import Settings


def model_facts(plane: Dataplane, settings: Settings) -> dict[str, Any]:
    """What does not change while the model is served, out of its manifest."""
    manifest = plane.manifest
    return {
        "name": plane.name,
        "version": plane.version,
        "labels": manifest.labels,
        "input": _input(manifest),
        "exits": _exits(manifest),
        "certificate": {"state": _state(manifest), "sentence": manifest.certificate.sentence},
        "warnings": manifest.warnings,
        "profile": _profile(manifest),
        "quality": _quality(manifest),
        "costs": {"machine": manifest.costs.machine, "batch_rows": manifest.costs.batch_rows[-1]},
        "limits": {"rows": settings.max_rows, "body_bytes": settings.max_body_bytes},
    }


def live_facts(plane: Dataplane) -> dict[str, Any]:
    """What changes with every answer."""
    statistics = plane.statistics
    rows = statistics.rows
    percentiles = statistics.percentiles(50, 95, 99)
    return {
        "model": plane.name,
        "version": plane.version,
        "ready": plane.ready,
        "reason": plane.reason,
        "certificate": _served(plane),
        "rows": rows,
        "exits": [
            {"exit": number, "rows": count, "share": count / rows if rows else 0.0}
            for number, count in enumerate(statistics.exits.tolist(), start=1)
        ],
        "requests": {"ok": statistics.success.count, "failed": statistics.failure.count},
        "milliseconds": dict(zip(("p50", "p95", "p99"), percentiles, strict=True))
        if percentiles
        else None,
    }


def _served(plane: Dataplane) -> str:
    """The same as long as the monitor has not fallen back."""
    return plane.monitor.note or _state(plane.manifest)


def _state(manifest: Manifest) -> str:
    """What the deployed policy is."""
    return "certified" if manifest.certificate.certified else "full depth"


def _input(manifest: Manifest) -> dict[str, Any]:
    """The kind of a raw row, the shape of the tensor that it becomes, and its limits."""
    preprocessing = manifest.preprocessing
    facts: dict[str, Any] = {
        "kind": preprocessing.kind,
        "shape": manifest.inputs[0].row_shape,
    }
    if isinstance(preprocessing, TextPreprocessing):
        facts["max_tokens"] = preprocessing.max_tokens
    if isinstance(preprocessing, ImagePreprocessing):
        facts["max_pixels"] = preprocessing.max_pixels
    return facts


def _exits(manifest: Manifest) -> list[dict[str, Any]]:
    """Per exit: where it stands, from which score rows leave, what it costs and how good it is.

    `time` is the stage time of a row that leaves there as a share of the model without exits'
    time, in batches of the largest measured size; `time_single` is the same for a row alone.
    """
    costs = manifest.costs
    alone = accumulate(stage[0] for stage in costs.stage_milliseconds)
    whole = costs.whole_milliseconds[0] + costs.beyond_milliseconds[0]
    return [
        {
            "number": exit_.number,
            "layer": exit_.layer,
            "threshold": exit_.threshold,
            "time": measured.time,
            "time_single": spent / whole if whole else 1.0,
            "share_leaving": measured.share_leaving,
            "micro_f1": measured.micro_f1,
        }
        for exit_, measured, spent in zip(manifest.exits, manifest.test.exits, alone, strict=True)
    ]


def _profile(manifest: Manifest) -> dict[str, Any]:
    """W2 and quality of every candidate layer on the tune split, and W2's noise floors."""
    profile = manifest.profile
    numbers = {exit_.layer: exit_.number for exit_ in manifest.exits}
    return {
        "layers": [_layer(layer, numbers.get(layer.layer)) for layer in profile.layers],
        "floor_labels": _estimate(profile.floor_labels.w2),
        "floor_teacher": _estimate(profile.floor_teacher.w2),
    }


def _layer(layer: LayerProfile, number: int | None) -> dict[str, Any]:
    return {
        "layer": layer.layer,
        "exit": number,
        "milliseconds": layer.milliseconds,
        "to_labels": _estimate(layer.to_labels.w2),
        "to_teacher": _estimate(layer.to_teacher.w2),
        "micro_f1": _estimate(layer.micro_f1),
    }


def _quality(manifest: Manifest) -> dict[str, Any]:
    """The deployed policy beside full depth, on the test split."""
    policy = manifest.test.policy
    return {
        "micro_f1": policy.micro_f1.policy,
        "micro_f1_full_depth": policy.micro_f1.full_depth,
        "time": policy.computed_time,
        "time_single": policy.computed_time_single,
    }


def _estimate(estimate: Estimate) -> dict[str, float]:
    return {"value": estimate.value, "low": estimate.low, "high": estimate.high}
