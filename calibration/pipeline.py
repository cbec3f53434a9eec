"""Calibration step by step: from a model with candidate layers and data to manifest and model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from calibration.certificate import check_rows
from calibration.dataset import SPLITS
from calibration.features import encoding_key, run_pass
from calibration.live_reference import live_reference
from calibration.manifest_parts import (
    recorded_curves,
    recorded_decisions,
    recorded_exits,
    recorded_options,
    recorded_versions,
)
from calibration.measure import measure_test
from calibration.payoff import paying_exits
from calibration.placed_exits import PlacedExits
from calibration.placement import place_exits
from calibration.steps import Steps
from calibration.thresholds import WCurve, policy_path
from calibration.transport import on_device
from models.manifest import Manifest
from models.measurements import Profile, ScoreKind
from models.policy import Policy

if TYPE_CHECKING:
    from rich.progress import Progress

    from calibration.layers import LayeredModel
    from calibration.options import CalibrationData, CalibrationOptions
    from calibration.placement import Placement
    from models.live_reference import LiveReference
    from models.manifest import Certificate
    from models.runtime import Answers


def profile_model(
    layered: LayeredModel,
    data: CalibrationData,
    options: CalibrationOptions,
    progress: Progress,
) -> tuple[Profile, list[str]]:
    """Train heads and measure every candidate layer; nothing is chosen.

    Returns
    -------
    The profile on the tune split, and warnings about the splits.
    """
    steps = _open_steps(layered, data, options, progress)
    warnings = steps.warnings()
    heads = steps.heads()
    return steps.profile(heads, steps.answers(heads, "tune")), warnings


def calibrate(
    layered: LayeredModel,
    data: CalibrationData,
    options: CalibrationOptions,
    progress: Progress,
    facts: dict[str, Any] | None = None,
) -> tuple[Manifest, bytes, LiveReference]:
    """Train and calibrate heads, place exits, choose thresholds from W, certify, measure.

    Parameters
    ----------
    facts : about source and training, recorded as they are

    Returns
    -------
    The manifest (still without hashes), the serialized multi-head model, and what the service will
    hold live answers against.

    Raises
    ------
    CalibrationError
        When the splits overlap, or hold too few rows for anything to be promised.
    """
    guarantees = options.guarantee.resolved(layered.layers[-1].has_logits)
    sizes = data.dataset.labels[data.split == SPLITS.index("certify")].sum(axis=1)
    check_rows(guarantees, len(sizes), len(data.dataset.names), size=float(sizes.mean()))
    steps = _open_steps(layered, data, options, progress)
    warnings = steps.warnings()
    heads = steps.heads()
    tune = steps.answers(heads, "tune")
    profile = steps.profile(heads, tune)
    prior = steps.prior(tune[-1], guarantees.against)

    def place(refused: Mapping[int, str]) -> Placement:
        layers, against = profile.layers, guarantees.against
        return place_exits(layers, prior, against, options.max_exits, options.keep_depth, refused)

    opened = partial(PlacedExits, steps, guarantees, heads, sample=data.sample)
    exits = paying_exits(place, opened, steps, guarantees)
    exits, score = exits.scored(_kinds(options), options.freeze_labels)
    chosen = _choose_policy(exits)
    costs, model = chosen.exits.assembled()
    manifest = Manifest(
        name=options.name,
        labels=data.dataset.names,
        inputs=layered.inputs,
        preprocessing=data.preprocessing,
        exits=recorded_exits(chosen.exits, chosen.policy),
        score=score,
        certificate=chosen.certificate,
        profile=profile,
        placement=recorded_decisions(layered, chosen.exits.placement),
        threshold_curves=recorded_curves(chosen.curves),
        test=measure_test(
            chosen.exits, steps, chosen.policy, chosen.path, chosen.tune, costs, heads
        ),
        costs=costs,
        splits=steps.split_facts(),
        warnings=tuple(warnings),
        facts={
            "options": recorded_options(options),
            "versions": recorded_versions(),
            "pass_seconds": round(steps.pass_seconds, 1),
            **(facts or {}),
        },
    )
    certify, test = (chosen.exits.answers(split) for split in ("certify", "test"))
    reference = live_reference(chosen.policy, chosen.certificate, guarantees, certify, test)
    return manifest, model, reference


@dataclass(frozen=True)
class _Chosen:
    """The policy to deploy, and the path that it was chosen from, over the exits that it uses.

    tune : K, the exits' answers to the tune split
    """

    exits: PlacedExits
    policy: Policy
    certificate: Certificate
    curves: list[WCurve]
    path: list[Policy]
    tune: list[Answers]


def _choose_policy(exits: PlacedExits) -> _Chosen:
    """Thresholds from W, then the certificate."""
    tune, curves, path = _path(exits)
    exits, policy, certificate = exits.certified(path)
    if policy.depth > len(tune):  # full depth was put back
        tune, curves, path = _path(exits)
    kept = _used(exits, policy)
    return _Chosen(
        exits=exits.moved(_only(exits.placement, kept)),
        policy=_thinned(policy, kept),
        certificate=certificate,
        curves=[curves[number - 1] for number in kept[:-1]],
        path=[_thinned(policy, kept) for policy in path],
        tune=[tune[number - 1] for number in kept],
    )


def _path(exits: PlacedExits) -> tuple[list[Answers], list[WCurve], list[Policy]]:
    tune = exits.answers("tune")
    curves = exits.curves(tune)
    return tune, curves, policy_path(curves, exits.saved_time)


def _open_steps(
    layered: LayeredModel, data: CalibrationData, options: CalibrationOptions, progress: Progress
) -> Steps:
    """Run the pass, or find it in the cache."""
    on_device(np.zeros(0), options.device)  # a missing device is told before any long work
    encoding = encoding_key(data.preprocessing, data.files)
    columns = [layer.column for layer in layered.layers]
    features = run_pass(
        layered.model, columns, data.encoder, encoding, data.dataset, options.features, progress
    )
    return Steps(layered, data, options, features, progress)


def _kinds(options: CalibrationOptions) -> Sequence[ScoreKind]:
    return get_args(ScoreKind) if options.score is None else (options.score,)


def _used(exits: PlacedExits, policy: Policy) -> list[int]:
    """Numbers of the exits that the policy can send rows to, the last one always.

    The others leave the bundle: their heads would be computed for nothing. Where scores look at
    the exit before, all stay, as their absence would change the scores behind them.
    """
    everyone = list(range(1, policy.depth + 1))
    if exits.looks_back or all(threshold is None for threshold in policy.thresholds):
        return everyone
    used = []
    for number, threshold in enumerate(policy.thresholds, start=1):
        if threshold is not None:
            used.append(number)
            if threshold <= 0:  # every row leaves here
                break
    return [*used, policy.depth]


def _only(placement: Placement, numbers: Sequence[int]) -> Placement:
    off = {
        layer: "the certified policy sends no row there"
        for number, layer in enumerate(placement.exits, start=1)
        if number not in numbers
    }
    return placement.without(off)


def _thinned(policy: Policy, numbers: Sequence[int]) -> Policy:
    return Policy(tuple(policy.thresholds[number - 1] for number in numbers[:-1]))
