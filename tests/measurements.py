"""Measurements of a made-up calibration: distances, quality, costs and curves, from a generator."""

from __future__ import annotations

import numpy as np

from models.measurements import (
    Comparison,
    Costs,
    Distances,
    Estimate,
    ExitProfile,
    LabelChange,
    LayerProfile,
    Measurement,
    PolicyQuality,
    Profile,
    QualityCurve,
    QualityPoint,
    ScoreChoice,
    ScoreKind,
    Stability,
    ThresholdCurve,
)

BATCHES = (1, 2, 4, 8, 16, 32)
METHODS = (
    "W path",
    "one threshold",
    "entropy",
    "maximum probability",
    "one quantile",
    "patience",
    "greedy search",
)
KINDS: tuple[ScoreKind, ...] = ("margin", "width", "log-probability", "agreement", "gate")


def _estimate(rng: np.random.Generator, value: float, width: float = 0.02) -> Estimate:
    low, high = width * (0.6 + 0.4 * rng.random(2))
    return Estimate(value=value, low=max(value - low, 0.0), high=value + high)


def _distances(rng: np.random.Generator, w2: float, labels: int) -> Distances:
    return Distances(
        w2=_estimate(rng, w2),
        w1=_estimate(rng, 0.9 * w2),
        sliced=_estimate(rng, 0.7 * w2),
        bures=_estimate(rng, 0.8 * w2),
        sinkhorn=_estimate(rng, 0.85 * w2),
        per_label=tuple((w2 * rng.gamma(2.0, 0.02, labels)).tolist()),
    )


def profile(rng: np.random.Generator, names: list[str], labels: int) -> Profile:
    layers = []
    for k, name in enumerate(names):
        depth = k / max(len(names) - 1, 1)
        w_labels = 0.56 + 0.09 * (depth - 0.45) ** 2 + 0.005 * rng.random()
        layers.append(
            LayerProfile(
                layer=name,
                milliseconds=1.4 + 0.3 * rng.random(),
                to_teacher=_distances(rng, 0.31 * (1 - depth) ** 0.7, labels),
                to_labels=_distances(rng, w_labels, labels),
                micro_f1=_estimate(rng, 0.95 - 0.74 * w_labels, 0.012),
                label_f1=tuple(rng.random(labels).tolist()),
                stability=Stability(batches=0.006, seeds=0.004, noise=0.02 * (1 + depth)),
            )
        )
    correlation = Estimate(value=-0.89, low=-1.0, high=-0.61) if len(names) > 2 else None
    return Profile(
        layers=tuple(layers),
        batch_rows=500,
        floor_teacher=_distances(rng, 0.12, labels),
        floor_labels=_distances(rng, 0.41, labels),
        correlation=correlation,
    )


def score_choice(rng: np.random.Generator, early: int) -> ScoreChoice:
    auroc = {kind: tuple((0.68 + 0.1 * rng.random(early)).tolist()) for kind in KINDS}
    return ScoreChoice(kind="gate", auroc=auroc, frozen_labels=True)


def threshold_curve(rng: np.random.Generator, number: int) -> ThresholdCurve:
    thresholds = np.linspace(1, 0, 40)
    rising = (0.2 + 0.25 * (1 - thresholds) ** 1.5) / number
    distances = np.maximum(rising + 0.02 * rng.normal(size=40) / number, 0)
    return ThresholdCurve(
        exit=number,
        thresholds=tuple(thresholds.tolist()),
        distances=tuple(distances.tolist()),
        envelope=tuple(np.maximum.accumulate(distances).tolist()),
    )


def _exit_profiles(rng: np.random.Generator, exits: int) -> list[ExitProfile]:
    shares = rng.dirichlet(np.full(exits, 4.0))
    last = exits - 1
    return [
        ExitProfile(
            exit=k + 1,
            w_teacher=_estimate(rng, 0.3 * (1 - k / max(last, 1))),
            w_labels=_estimate(rng, 0.57 + 0.01 * k),
            micro_f1=0.51 + 0.005 * k,
            share_leaving=float(shares[k]),
            leaves_next=tuple(float(shares[k]) if n == k + 1 else 0.0 for n in range(exits)),
            time=(k + 1) / exits,
        )
        for k in range(exits)
    ]


def _comparison(rng: np.random.Generator, policy: float, full: float) -> Comparison:
    difference = policy - full
    interval = Estimate(
        value=difference, low=difference - 0.006, high=difference + 0.004 + 0.002 * rng.random()
    )
    return Comparison(policy=policy, full_depth=full, difference=interval)


def _quality(rng: np.random.Generator) -> PolicyQuality:
    return PolicyQuality(
        micro_f1=_comparison(rng, 0.5287, 0.5264),
        macro_f1=_comparison(rng, 0.4411, 0.4439),
        mean_average_precision=_comparison(rng, 0.4703, 0.4751),
        set_agreement=0.9853,
        computed_time=0.5821,
        computed_time_single=0.6342,
    )


def _label_changes(rng: np.random.Generator, names: tuple[str, ...]) -> list[LabelChange]:
    full = rng.uniform(0.1, 0.8, len(names))
    policy = np.clip(full + rng.normal(0, 0.02, len(names)), 0, 1)
    positives = rng.integers(6, 1700, len(names))
    return [
        LabelChange(label=name, positives=count, f1=f1, f1_full_depth=f1_full)
        for name, count, f1, f1_full in zip(
            names, positives.tolist(), policy.tolist(), full.tolist(), strict=True
        )
    ]


def _curves(rng: np.random.Generator, layers: int) -> tuple[QualityCurve, ...]:
    curves = []
    for order, method in enumerate(METHODS):
        times = np.linspace(1.0, 0.2 + 0.03 * order, 14)
        f1 = 0.5264 + 0.02 * np.sin(np.pi * times) - (0.03 + 0.01 * order) * (1 - times) ** 2
        curves.append(_curve(method, times, f1))
    times = np.arange(1, layers + 1) / layers
    curves.append(_curve("static", times, 0.50 + 0.03 * rng.random(layers)))
    return tuple(curves)


def _curve(method: str, times: np.ndarray, f1: np.ndarray) -> QualityCurve:
    points = [
        QualityPoint(time=time, micro_f1=quality, set_agreement=min(0.6 + 0.4 * time, 1.0))
        for time, quality in zip(times.tolist(), f1.tolist(), strict=True)
    ]
    return QualityCurve(method=method, points=tuple(points))


def costs(rng: np.random.Generator, exits: int) -> Costs:
    growth = np.array(BATCHES) ** 0.85

    def curve(first: float) -> tuple[float, ...]:
        return tuple((first * growth * (1 + 0.03 * rng.random(len(BATCHES)))).tolist())

    return Costs(
        machine="Intel(R) Xeon(R) Processor, 2 cores",
        batch_rows=BATCHES,
        stage_milliseconds=tuple(curve(3.1) for _ in range(exits)),
        beyond_milliseconds=(0.0,) * len(BATCHES),
        exit_milliseconds=tuple(curve(0.08) for _ in range(exits - 1)),
        whole_milliseconds=curve(3.0 * exits),
    )


def measurement(
    rng: np.random.Generator, names: tuple[str, ...], layers: int, exits: int
) -> Measurement:
    return Measurement(
        exits=tuple(_exit_profiles(rng, exits)),
        policy=_quality(rng),
        labels=tuple(_label_changes(rng, names)),
        curves=_curves(rng, layers),
    )
