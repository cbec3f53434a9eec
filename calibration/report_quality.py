"""Tables of measured quality: exits, baselines, the policy, and label by label."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calibration.quality_curves import cost_at, relative_costs
from calibration.report_tables import NOTHING, Table, estimate, folded, number, percent

if TYPE_CHECKING:
    from models.manifest import Manifest
    from models.measurements import QualityCurve


def exits_table(manifest: Manifest) -> Table:
    """Every exit: where it stands, and what it gives on the test split."""
    rows = []
    for exit_, measured in zip(manifest.exits, manifest.test.exits, strict=True):
        last = exit_.number == manifest.depth
        threshold = number(exit_.threshold, 3) if exit_.threshold is not None else "off"
        rows.append(
            (
                str(exit_.number),
                exit_.layer,
                str(len(exit_.carry)),
                "all others" if last else threshold,
                estimate(measured.w_teacher),
                estimate(measured.w_labels),
                number(measured.micro_f1),
                percent(measured.share_leaving),
                percent(measured.time),
            )
        )
    heads = (
        "exit",
        "layer",
        "carry (tensors)",
        "threshold",
        "W2 to teacher",
        "W2 to labels",
        "micro-F1",
        "rows leaving",
        "time",
    )
    caption = (
        "Test split; W2 and micro-F1 as if all rows left there, W2 with its 95% interval; time: of "
        f"a row that leaves there, as a share of the model without exits, at "
        f"batch {_largest(manifest)}."
    )
    return Table(caption, heads, 2, tuple(rows))


def curves_table(manifest: Manifest) -> Table:
    """What every way to choose policies costs at the quality of the policy and of full depth."""
    reached = manifest.test.policy.micro_f1
    curves = [curve for curve in manifest.test.curves if curve.points]
    relative = relative_costs(curves) if curves else {}
    rows = tuple(
        (
            curve.method,
            _cost(curve, reached.policy),
            _cost(curve, reached.full_depth),
            number(max(point.micro_f1 for point in curve.points)),
            f"{ratio:.2f}" if (ratio := relative.get(curve.method)) else NOTHING,
        )
        for curve in curves
    )
    heads = (
        "way",
        f"time to micro-F1 {reached.policy:.4f} (the policy's)",
        f"time to micro-F1 {reached.full_depth:.4f} (full depth)",
        "best micro-F1",
        "W path's cost / this one's",
    )
    caption = (
        "The smallest time share of a policy that was tried and reaches that micro-F1 on the test "
        f"split, at batch {_largest(manifest)}; {NOTHING} where none does. The best of many points "
        "flatters whoever tried more of them; the last column is a mean over levels of micro-F1, "
        "from the most eager W policy's up to the highest that both reach."
    )
    return Table(caption, heads, 1, rows)


def changes_table(manifest: Manifest) -> Table:
    """Every label's F1 under the policy beside full depth, the worst change first."""
    changes = sorted(manifest.test.labels, key=lambda label: label.f1 - label.f1_full_depth)
    rows = tuple(
        (
            label.label,
            f"{label.positives:,}",
            number(label.f1),
            number(label.f1_full_depth),
            f"{label.f1 - label.f1_full_depth:+.4f}",
        )
        for label in changes
    )
    heads = ("label", "positives", "F1, policy", "F1, full depth", "change")
    return folded("Labels on the test split, the worst change first.", heads, 1, rows)


def quality_table(manifest: Manifest) -> Table:
    """The policy beside full depth on the test split: measured, not certified."""
    quality = manifest.test.policy
    named = (
        ("micro-F1", quality.micro_f1),
        ("macro-F1", quality.macro_f1),
        ("mean average precision", quality.mean_average_precision),
    )
    rows = [
        (
            name,
            number(compared.policy),
            number(compared.full_depth),
            estimate(compared.difference, 4),
        )
        if compared is not None
        else (name, NOTHING, NOTHING, NOTHING)
        for name, compared in named
    ]
    rows.append(("set agreement with the full model", number(quality.set_agreement), "1", NOTHING))
    heads = ("measured, not certified", "policy", "full depth", "difference (95% interval)")
    caption = "Test split; intervals by a paired bootstrap over rows."
    return Table(caption, heads, 1, tuple(rows))


def _largest(manifest: Manifest) -> int:
    return manifest.costs.batch_rows[-1]


def _cost(curve: QualityCurve, micro_f1: float) -> str:
    cost = cost_at(curve, micro_f1)
    return NOTHING if cost is None else percent(cost)
