"""What was measured, as tables and sentences for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from calibration.quality_curves import relative_costs

if TYPE_CHECKING:
    from rich.table import Table

    from models.manifest import Manifest
    from models.measurements import Estimate, Measurement, Profile, QualityCurve


LAYER_WIDTH = 18  # longer names are folded


def exit_table(manifest: Manifest) -> Table:
    """One line per exit, measured on the test split."""
    from rich import box
    from rich.table import Table

    costs = manifest.costs
    layers = [exit_.layer[:LAYER_WIDTH] for exit_ in manifest.exits]
    table = Table(
        title=f"{manifest.name}: exits on the test split ({manifest.splits['test'].rows} rows)",
        caption=f"stage ms: at batch {costs.batch_rows[-1]}, one thread; time: if all rows left "
        f"there, of\nthe model without exits; ±: 95% interval; {costs.machine}",
        box=box.SIMPLE_HEAD,
        padding=0,
    )
    table.add_column("exit", justify="right")
    table.add_column("layer", overflow="fold", min_width=max(map(len, layers)))
    for heading in (
        "W to\nteacher",
        "W to\nlabels",
        "micro\n-F1",
        "stage\nms",
        "time",
        "thres-\nhold",
        "leaving",
    ):
        table.add_column(heading, justify="right", no_wrap=True)
    for exit_, profile, milliseconds in zip(
        manifest.exits, manifest.test.exits, costs.stage_milliseconds, strict=True
    ):
        table.add_row(
            str(exit_.number),
            exit_.layer,
            with_interval(profile.w_teacher),
            with_interval(profile.w_labels),
            f"{profile.micro_f1:.4f}",
            f"{milliseconds[-1]:.2f}",
            f"{profile.time:.0%}",
            _threshold(exit_.threshold, last=exit_.number == manifest.depth),
            f"{profile.share_leaving:.1%}",
        )
    return table


def profile_table(profile: Profile, exits: Mapping[str, int] | None = None) -> Table:
    """One line per candidate layer, measured on the tune split.

    Parameters
    ----------
    exits : number of the exit by layer, where exits were chosen
    """
    from rich import box
    from rich.table import Table

    floors = profile.floor_teacher.w2.value, profile.floor_labels.w2.value
    table = Table(
        title="candidate layers on the tune split",
        caption=f"±: 95% interval; two halves of the target are at {floors[0]:.3f} (teacher) and "
        f"{floors[1]:.3f} (labels): the noise floor at {profile.batch_rows} rows",
        box=box.SIMPLE_HEAD,
        padding=0,
    )
    headings = ("layer", "W to\nteacher", "W to\nlabels", "micro-F1", "stage\nms", "exit")
    for heading in headings if exits else headings[:-1]:
        table.add_column(heading, justify="left" if heading == "layer" else "right")
    for layer in profile.layers:
        cells = [
            layer.layer,
            with_interval(layer.to_teacher.w2),
            with_interval(layer.to_labels.w2),
            with_interval(layer.micro_f1),
            f"{layer.milliseconds:.2f}",
        ]
        if exits:
            cells.append(str(exits.get(layer.layer, "")))
        table.add_row(*cells)
    return table


def correlation_sentence(profile: Profile) -> str:
    """Whether W tells which layer is better."""
    if profile.correlation is None:
        return "Too few layers to say whether the nearer one is the better one."
    c = profile.correlation
    return (
        f"Rank correlation between W to the labels and micro-F1 over the layers: {c.value:.2f} "
        f"(95% interval {c.low:.2f} to {c.high:.2f}); -1 says that the nearer layer is always the "
        "better one."
    )


def with_interval(estimate: Estimate) -> str:
    """An estimate as tables show it, with half its interval's width, e.g. `0.221±.009`."""
    half = (estimate.high - estimate.low) / 2
    return f"{estimate.value:.3f}±{half:.3f}".replace("±0.", "±.")


def policy_sentence(measured: Measurement) -> str:
    """What the deployed policy gives beside full depth, in one sentence."""
    policy = measured.policy
    f1, change = policy.micro_f1, policy.micro_f1.difference
    return (
        f"On the test split the policy's micro-F1 is {f1.policy:.4f} (full depth "
        f"{f1.full_depth:.4f}; difference {change.low:+.4f} to {change.high:+.4f}), "
        f"{policy.set_agreement:.2%} of label sets are the full model's, and a row is given "
        f"{policy.computed_time:.0%} of the time of the model without exits "
        f"({policy.computed_time_single:.0%} at batch 1)."
    )


def cost_sentence(curves: Sequence[QualityCurve]) -> str:
    """What the W path costs beside other ways to choose policies over the same exits."""
    costs = relative_costs(curves)
    compared = ", ".join(f"{cost:.2f} of {name}" for name, cost in costs.items() if cost)
    missed = [name for name, cost in costs.items() if not cost]
    behind = f"; {', '.join(missed)} never got as good as its most eager policy" if missed else ""
    return (
        f"At equal micro-F1 on the test split the W path costs, in mean over quality levels, "
        f"{compared}{behind}."
    )


def _threshold(threshold: float | None, last: bool) -> str:
    if last:
        return "-"
    return "off" if threshold is None else f"{threshold:.3f}"
