"""What calibration measured, as `manifest.json` records it: distances, quality, costs, curves.

Every estimate comes with a 95 % interval; every distance is a root, in the unit of the
probabilities.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from models.record import Record

Share = Annotated[float, Field(ge=0, le=1)]
Milliseconds = Annotated[float, Field(ge=0)]

ScoreKind = Literal["margin", "width", "log-probability", "agreement", "gate"]


class Estimate(Record):
    """A measured value and its 95 % interval over resampled rows."""

    value: float
    low: float
    high: float


class Distances(Record):
    """W-distances between two label-space distributions over the same rows."""

    w2: Estimate
    """Exact 2-Wasserstein; placement and tables use this one."""
    w1: Estimate
    sliced: Estimate
    bures: Estimate
    """Between the two Gaussians with the same means and covariances."""
    sinkhorn: Estimate
    """Root of the debiased Sinkhorn divergence."""
    per_label: tuple[float, ...]
    """One-dimensional W1 of every label."""


class Stability(Record):
    """How little a layer's distance to the labels moves; standard deviations, but for `noise`."""

    batches: float
    """Over batches of `Profile.batch_rows` rows."""
    seeds: float | None
    """Over heads trained with other seeds; None where that was not asked for."""
    noise: float | None
    """W2 between the layer's answers to rows and to the same rows slightly disturbed; None where
    that was not measured."""


class LayerProfile(Record):
    """One candidate layer, as if all rows were answered there."""

    layer: str
    milliseconds: Milliseconds
    """Of the stage that ends there, without a head."""
    to_teacher: Distances
    to_labels: Distances
    micro_f1: Estimate
    label_f1: tuple[Share, ...]
    stability: Stability


class Profile(Record):
    """Every candidate layer on the tune split, in depth order; the last is full depth."""

    layers: Annotated[tuple[LayerProfile, ...], Field(min_length=1)]
    batch_rows: int
    """Rows of one exact distance."""
    floor_teacher: Distances
    """Split-half noise floor: the distances between two halves of the teacher's answers."""
    floor_labels: Distances
    correlation: Estimate | None
    """Spearman rank correlation, over the layers, of W2 to the labels and micro-F1; -1 says that
    the nearer layer is always the better one. None with fewer than three layers."""


class ThresholdCurve(Record):
    """w_k(t) of one exit: what the rows in a band of scores at t lose by leaving there.

    The anchored W-distance of the exit's answers to the target, in excess of the last exit's, over
    the tune split.
    """

    exit: int
    thresholds: tuple[Share, ...]
    """Descending; each lets its band and those before it leave."""
    distances: tuple[float, ...]
    """As measured, band by band."""
    envelope: tuple[float, ...]
    """What the price of the time saved is compared with: ascending along the thresholds."""


class ScoreChoice(Record):
    """Which score the bundle computes, and how well each kind predicts a loss on the tune split."""

    kind: ScoreKind
    auroc: dict[ScoreKind, tuple[float | None, ...]]
    """Per kind, one per early exit; None where no row, or every row, is lost."""
    frozen_labels: bool
    """Whether a label whose decision was clear at two exits keeps it."""


class QualityPoint(Record):
    """One policy on the test split."""

    time: Annotated[float, Field(ge=0)]
    """Mean stage time of a row as a share of the model without exits' time, at the largest
    batch."""
    micro_f1: Share
    set_agreement: Share


class QualityCurve(Record):
    """A way to choose policies, from cautious to eager."""

    method: str
    points: tuple[QualityPoint, ...]


class ExitProfile(Record):
    """What was measured at one exit of the deployed policy on the test split."""

    exit: int
    w_teacher: Estimate
    w_labels: Estimate
    micro_f1: Share
    share_leaving: Share
    leaves_next: tuple[Share, ...]
    """[exit]: of all rows, those that leave here and would leave there if this exit were off."""
    time: Annotated[float, Field(ge=0)]
    """Stage time of a row that leaves here, as a share of the model without exits' time, at the
    largest batch."""


class Comparison(Record):
    """A quality of the policy beside full depth; the interval is a paired bootstrap's."""

    policy: float
    full_depth: float
    difference: Estimate


class LabelChange(Record):
    """One label under the policy beside full depth, on the test split."""

    label: str
    positives: int
    f1: Share
    f1_full_depth: Share


class PolicyQuality(Record):
    """What a policy gives on one split, beside the full model."""

    micro_f1: Comparison
    macro_f1: Comparison
    mean_average_precision: Comparison | None
    """None where no label has both kinds of rows."""
    set_agreement: Share
    computed_time: Annotated[float, Field(ge=0)]
    """Mean stage time of a row as a share of the model without exits' time, at the largest
    batch."""
    computed_time_single: Annotated[float, Field(ge=0)]
    """The same at batch 1."""


class Measurement(Record):
    """The deployed policy and its exits on the test split. Measured, not certified."""

    exits: tuple[ExitProfile, ...]
    policy: PolicyQuality
    labels: tuple[LabelChange, ...]
    curves: tuple[QualityCurve, ...]
    """The first is the W path, the others are baselines over the same heads."""


class Costs(Record):
    """Measured times: medians, one thread, by rows per batch."""

    machine: str
    batch_rows: tuple[int, ...]
    stage_milliseconds: tuple[tuple[float, ...], ...]
    """[stage][batch]: of one run of the stage with its head."""
    beyond_milliseconds: tuple[float, ...]
    """[batch]: of the layers behind the last exit, which the bundle leaves out; 0 if none."""
    exit_milliseconds: tuple[tuple[float, ...], ...]
    """[early exit][batch]: what an exit costs: its head and gathering the rows that stay, or what
    the stages on its two sides take longer than in one piece, whichever is more."""
    whole_milliseconds: tuple[float, ...]
    """[batch]: of the bundle's last answer in one piece, without any early exit."""
