"""Calibration step by step: from a model with candidate layers and data to manifest and model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from calibration.features import encoding_key, run_pass
from calibration.measure import measure_policy
from calibration.placement import Placement, place_exits
from calibration.steps import Steps
from models.manifest import Exit, Manifest
from models.policy import Policy

if TYPE_CHECKING:
    from rich.progress import Progress

    from calibration.layers import Layer, LayeredModel
    from calibration.options import CalibrationData, CalibrationOptions

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


def calibrate(
    layered: LayeredModel,
    data: CalibrationData,
    options: CalibrationOptions,
    progress: Progress,
    facts: dict[str, Any] | None = None,
) -> tuple[Manifest, bytes]:
    """Train and calibrate heads, place exits, choose thresholds from W, certify, measure.

    Parameters
    ----------
    facts : about source and training, recorded as they are

    Returns
    -------
    The manifest (still without hashes) and the serialized multi-head model.
    """
    encoding = encoding_key(data.preprocessing, data.files)
    columns = [layer.column for layer in layered.layers]
    features = run_pass(
        layered.model, columns, data.encoder, encoding, data.dataset, options.features, progress
    )
    guarantee = options.guarantee.resolved(layered.layers[-1].has_logits)
    run = Steps(layered, data, options, guarantee, features, progress)
    heads = run.heads()
    tune = run.answers(heads, range(len(heads)), "tune")
    profiles = run.profiles(tune, range(len(heads)), tune[-1], "tune")
    placement = place_exits(
        profiles,
        layered.milliseconds,
        run.prior(tune[-1], "tune"),
        guarantee.against,
        options.max_exits,
        options.keep_depth,
    )
    policy, certificate = run.certified(heads, placement, tune)
    if certificate.certified:
        placement, policy = _without_unused(placement, policy)
    elif placement.truncated:
        placement = Placement((*placement.exits, placement.full_depth), placement.full_depth)
    costs, model = run.assembled(heads, placement)
    kept = placement.exits
    test = run.answers(heads, dict.fromkeys([*kept, placement.full_depth]), "test")
    measured = run.profiles(test[: len(kept)], kept, test[-1], "test")
    manifest = Manifest(
        name=options.name,
        labels=data.dataset.names,
        inputs=layered.inputs,
        preprocessing=data.preprocessing,
        exits=_exits([layered.layers[k] for k in kept], policy),
        certificate=certificate,
        profile=tuple(profiles),
        test=measure_policy(measured, test, run.labels("test"), policy, costs),
        costs=costs,
        splits=run.split_facts(),
        facts={
            "options": _recorded(options),
            "versions": _versions(),
            "pass_seconds": round(features.seconds, 1),
            **(facts or {}),
        },
    )
    return manifest, model


def _without_unused(placement: Placement, policy: Policy) -> tuple[Placement, Policy]:
    """Leave out exits that the policy has turned off: their heads would be computed for nothing."""
    *early, last = placement.exits
    used = [(k, t) for k, t in zip(early, policy.thresholds, strict=True) if t is not None]
    exits = (*(layer for layer, _ in used), last)
    return replace(placement, exits=exits), Policy(tuple(threshold for _, threshold in used))


def _exits(layers: Sequence[Layer], policy: Policy) -> tuple[Exit, ...]:
    carries = [*(layer.carry for layer in layers[:-1]), ()]
    thresholds = [*policy.thresholds, None]
    return tuple(
        Exit(number=number, layer=layer.name, carry=carry, threshold=threshold)
        for number, (layer, carry, threshold) in enumerate(
            zip(layers, carries, thresholds, strict=True), start=1
        )
    )


def _recorded(options: CalibrationOptions) -> dict[str, Any]:
    """Without where the cache lies, which is the machine's affair."""
    recorded = asdict(options)
    recorded["features"].pop("cache")
    return recorded


def _versions() -> dict[str, str]:
    versions = {}
    for package in RECORDED_VERSIONS:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions
