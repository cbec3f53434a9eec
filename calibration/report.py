"""Shows a manifest to people: a table for the terminal and a picture."""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

    from models.manifest import Distance, Manifest, Measurement


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
        f"there\n±: over sub-samples; {costs.machine}",
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
            with_spread(profile.w_teacher),
            with_spread(profile.w_labels),
            f"{profile.micro_f1:.4f}",
            f"{milliseconds[-1]:.2f}",
            f"{profile.time:.0%}",
            _threshold(exit_.threshold, last=exit_.number == manifest.depth),
            f"{profile.share_leaving:.1%}",
        )
    return table


def with_spread(distance: Distance) -> str:
    """A distance as tables show it, e.g. `0.221±.009`."""
    return f"{distance.value:.3f}±{distance.spread:.3f}".replace("±0.", "±.")


def policy_sentence(measured: Measurement) -> str:
    """What the deployed policy gives beside full depth, in one sentence."""
    policy = measured.policy
    return (
        f"On the test split the policy's micro-F1 is {policy.micro_f1:.4f} (full depth "
        f"{policy.micro_f1_full_depth:.4f}), {policy.set_agreement:.2%} of label sets are the "
        f"full model's, and a row "
        f"is given {policy.computed_time:.0%} of the full stage time "
        f"({policy.computed_time_single:.0%} at batch 1)."
    )


def draw_profile(manifest: Manifest) -> bytes:
    """W-distance by depth beside quality by depth, on the test split, as PNG."""
    from matplotlib.figure import Figure

    exits = [profile.exit for profile in manifest.test.exits]
    profiles = manifest.test.exits
    figure = Figure(figsize=(10, 4), layout="constrained")
    distance, quality = figure.subplots(1, 2)
    for name, distances, colour in (
        ("to the true labels", [profile.w_labels for profile in profiles], "tab:blue"),
        ("to the full model", [profile.w_teacher for profile in profiles], "tab:orange"),
    ):
        distance.errorbar(
            exits,
            [d.value for d in distances],
            [2 * d.spread for d in distances],
            marker="o",
            capsize=4,
            color=colour,
            label=name,
        )
    distance.set(
        title="W-distance by depth", xlabel="exit", ylabel="exact W2 (± 2 spreads)", ylim=0
    )
    distance.legend()
    quality.plot(exits, [profile.micro_f1 for profile in profiles], marker="o", color="tab:green")
    quality.axhline(
        manifest.test.policy.micro_f1,
        linestyle="--",
        color="black",
        label="the policy, rows leaving early",
    )
    quality.set(title="Quality by depth", xlabel="exit", ylabel="micro-F1, all rows leaving there")
    shares = quality.twinx()
    shares.bar(
        exits, [profile.share_leaving for profile in profiles], width=0.5, alpha=0.2, color="grey"
    )
    shares.set(ylabel="share of rows leaving (bars)", ylim=(0, 1))
    quality.legend(loc="center right")
    for axes in (distance, quality):
        axes.set_xticks(exits)
        axes.grid(alpha=0.3)
    picture = BytesIO()
    figure.savefig(picture, format="png", dpi=120, metadata={"Software": None})
    return picture.getvalue()


def _threshold(threshold: float | None, last: bool) -> str:
    if last:
        return "-"
    return "off" if threshold is None else f"{threshold:.3f}"
