"""Parts of the manifest that calibration only has to write down."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from models.manifest import Decision, Exit
from models.measurements import ThresholdCurve

if TYPE_CHECKING:
    from calibration.layers import LayeredModel
    from calibration.options import CalibrationOptions
    from calibration.placed_exits import PlacedExits
    from calibration.placement import Placement
    from calibration.thresholds import WCurve
    from models.policy import Policy

RECORDED_VERSIONS = (
    "numpy",
    "onnx",
    "onnxruntime",
    "onnxruntime-gpu",
    "POT",
    "scikit-learn",
    "torch",
    "transformers",
)


def recorded_exits(exits: PlacedExits, policy: Policy) -> tuple[Exit, ...]:
    """The exits, their carries and thresholds."""
    carries = [*exits.carries, ()]
    thresholds = [*policy.thresholds, None]
    return tuple(
        Exit(number=number, layer=layer.name, carry=carry, threshold=threshold)
        for number, (layer, carry, threshold) in enumerate(
            zip(exits.layers, carries, thresholds, strict=True), start=1
        )
    )


def recorded_decisions(layered: LayeredModel, placement: Placement) -> tuple[Decision, ...]:
    """Why every candidate layer has an exit or none."""
    numbers = {layer: number for number, layer in enumerate(placement.exits, start=1)}
    last = len(placement.exits)

    def reason(layer: int) -> str:
        if layer not in numbers:
            return placement.left_out[layer]
        if numbers[layer] < last:
            return "makes the area under W over time smaller, and pays"
        return "nearest to the labels" if placement.truncated else "full depth"

    return tuple(
        Decision(layer=layer.name, exit=numbers.get(k), reason=reason(k))
        for k, layer in enumerate(layered.layers)
    )


def recorded_curves(curves: Sequence[WCurve]) -> tuple[ThresholdCurve, ...]:
    """W_k(t) of every exit but the last."""
    return tuple(
        ThresholdCurve(
            exit=number,
            thresholds=tuple(curve.thresholds.tolist()),
            distances=tuple(curve.distances.tolist()),
            envelope=tuple(curve.envelope.tolist()),
        )
        for number, curve in enumerate(curves, start=1)
    )


def recorded_options(options: CalibrationOptions) -> dict[str, Any]:
    """Without where the cache lies, which is the machine's affair."""
    recorded = asdict(options)
    recorded["features"].pop("cache")
    return recorded


def recorded_versions() -> dict[str, str]:
    """Versions of the packages that decide what comes out."""
    versions = {}
    for package in RECORDED_VERSIONS:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions
