"""Calibration step by step: from logits at every exit to a bundle's manifest and model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np

from calibration.certificate import certify, check_levels
from calibration.costs import measure_costs
from calibration.data import Splits
from calibration.measure import measure_split
from calibration.probability import calibrate_head
from calibration.thresholds import measure_path
from models.heads import attach_heads, output_name
from models.manifest import Exit, InputSpec, Manifest, SplitFacts
from models.policy import Policy
from models.runtime import Answers, StageRuntime, open_session

if TYPE_CHECKING:
    import onnx
    from rich.progress import Progress

    from models.backbone import Backbone

RECORDED_VERSIONS = (
    "numpy",
    "onnx",
    "onnxruntime",
    "onnxruntime-gpu",
    "POT",
    "scikit-learn",
    "torch",
)


@dataclass(frozen=True)
class CalibrationOptions:
    """What the user decides."""

    name: str
    epsilon: float = 0.02  # share of label sets that may differ from the full model's
    delta: float = 0.05  # chance that the promise does not hold
    seed: int = 0

    def __post_init__(self) -> None:
        check_levels(self.epsilon, self.delta)


def calibrate(
    backbone: Backbone,
    splits: Splits,
    options: CalibrationOptions,
    progress: Progress,
    training: dict[str, Any] | None = None,
) -> tuple[Manifest, bytes]:
    """Calibrate heads, choose thresholds from W, certify, measure.

    Parameters
    ----------
    backbone : gives `exit{k}_logits`; `splits.fit` trained it
    training : facts about the training, recorded as they are

    Returns
    -------
    The manifest (still without hashes) and the serialized multi-head model.
    """
    rng = np.random.default_rng(options.seed)
    headed = _with_heads(backbone, splits)
    model = headed.SerializeToString()
    runtime = StageRuntime(model, backbone.carries)
    tune = _all_exits(runtime, splits.tune.inputs, "tune", progress)
    _, path = measure_path(tune, rng, progress)
    certify_answers = _all_exits(runtime, splits.certify.inputs, "certify", progress)
    policy, certificate = certify(path, certify_answers, options.epsilon, options.delta)
    costs = measure_costs(runtime, splits.tune.inputs, progress)
    profile = measure_split("tune", tune, splits.tune.labels, policy, costs, options.seed, progress)
    test_answers = _all_exits(runtime, splits.test.inputs, "test", progress)
    test = measure_split(
        "test", test_answers, splits.test.labels, policy, costs, options.seed, progress
    )
    manifest = Manifest(
        name=options.name,
        labels=splits.fit.names,
        input=InputSpec(name=backbone.input_name, row_shape=splits.fit.inputs.shape[1:]),
        exits=_exits(backbone.carries, policy),
        certificate=certificate,
        profile=profile,
        test=test,
        costs=costs,
        splits=_split_facts(splits),
        facts={"options": asdict(options), "versions": _versions(), "training": training or {}},
    )
    return manifest, model


def _with_heads(backbone: Backbone, splits: Splits) -> onnx.ModelProto:
    session = open_session(backbone.model.SerializeToString())
    names = [output_name(number, "logits") for number in range(1, len(backbone.carries) + 2)]
    batches = [
        session.run(names, {backbone.input_name: splits.tune.inputs[start : start + 64]})
        for start in range(0, len(splits.tune), 64)
    ]
    logits = [np.concatenate(parts) for parts in zip(*batches, strict=True)]  # K x (n, L)
    calibrations = [calibrate_head(exit_logits, splits.tune.labels) for exit_logits in logits]
    return attach_heads(backbone.model, calibrations)


def _all_exits(
    runtime: StageRuntime, inputs: np.ndarray, split: str, progress: Progress
) -> list[Answers]:
    task = progress.add_task(f"answers, {split}", total=len(inputs))
    return runtime.all_exits(inputs, advance=lambda rows: progress.advance(task, rows))


def _exits(carries: Sequence[tuple[str, ...]], policy: Policy) -> tuple[Exit, ...]:
    return tuple(
        Exit(number=number, carry=carry, threshold=threshold)
        for number, (carry, threshold) in enumerate(
            zip([*carries, ()], [*policy.thresholds, None], strict=True), start=1
        )
    )


def _split_facts(splits: Splits) -> dict[str, SplitFacts]:
    return {
        name: SplitFacts(rows=len(getattr(splits, name)), sha256=digest)
        for name, digest in splits.digests().items()
    }


def _versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError

    versions = {}
    for package in RECORDED_VERSIONS:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions
