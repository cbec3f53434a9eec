"""Pictures of the policies: training epochs, thresholds, quality against cost, exit shares."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

from calibration.quality_curves import STATIC
from calibration.report_svg import GROUND, INK, SERIES, Picture, draw, listed, series

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from models.manifest import Manifest
    from models.measurements import QualityCurve, ThresholdCurve


def epoch_pictures(manifest: Manifest) -> tuple[Picture, ...]:
    """W and micro-F1 by epoch, per exit; none where nothing was trained here."""
    training = manifest.facts.get("training") or {}
    epochs = training.get("epochs") or []
    if not epochs:
        return ()
    return (
        _by_epoch(epochs, "w_labels", "W to the labels by epoch", "W2 to the labels"),
        _by_epoch(epochs, "w_teacher", "W to the last exit by epoch", "W2 to the last exit"),
        _by_epoch(epochs, "micro_f1", "Quality by epoch", "micro-F1 of held-out rows"),
    )


def threshold_picture(manifest: Manifest) -> Picture | None:
    """w_k(t) of every early exit, with its envelope and the chosen threshold; None without."""
    curves = [curve for curve in manifest.threshold_curves if curve.thresholds]
    if not curves:
        return None
    chosen = {exit_.number: exit_.threshold for exit_ in manifest.exits}
    marked = [
        f"exit {curve.exit} "
        + ("is off" if (t := chosen.get(curve.exit)) is None else f"from a score of {t:.3f} on")
        for curve in curves
    ]
    text = f"What rows lose that leave early, by their score. Chosen: {', '.join(marked)}."

    def paint(axes: Axes) -> None:
        for number, curve in enumerate(curves):
            colour, marker = series(number)
            axes.plot(curve.thresholds, curve.distances, ".", ms=3, color=colour, alpha=0.6)
            axes.plot(
                curve.thresholds, curve.envelope, drawstyle="steps-post", color=colour, lw=1.4
            )
            _mark_threshold(axes, curve, chosen.get(curve.exit), colour, marker)
        axes.set(xlabel="threshold t of the score", ylabel="excess W of the band at t")

    caption = (
        "How much further from the target, in W, the exit's answers are than the last exit's, for "
        "the tune rows in a band of scores at t. Points: measured. Line: the envelope, which the "
        "price of the time saved is compared with. Large marker: the threshold chosen."
    )
    return draw("What rows lose that leave early", text, paint, caption)


def quality_cost_picture(manifest: Manifest) -> Picture:
    """Micro-F1 against time share: the W path, the baselines, static truncation, the policy."""
    measured = manifest.test.policy
    curves = [curve for curve in manifest.test.curves if curve.points]
    policy = (measured.computed_time, measured.micro_f1.policy)
    full = measured.micro_f1.full_depth
    best = ", ".join(
        f"{curve.method} {max(point.micro_f1 for point in curve.points):.4f}" for curve in curves
    )
    text = (
        f"Micro-F1 against time share. The deployed policy: {policy[1]:.4f} at {policy[0]:.1%} of "
        f"the time of the model without exits; full depth: {full:.4f} at 100%. Best micro-F1 of "
        f"each way: {best}."
    )

    def paint(axes: Axes) -> None:
        for number, curve in enumerate(curves):
            _draw_curve(axes, curve, number)
        axes.plot(1, full, "d", color=INK, mfc=GROUND, ms=8, ls="", label="full depth", zorder=5)
        axes.plot(
            *policy, "*", color=INK, ms=14, ls="", label="the deployed policy", zorder=6, alpha=0.9
        )
        batch = manifest.costs.batch_rows[-1]
        axes.set(
            xlabel=f"time, share of the model without exits, batch {batch}",
            ylabel="micro-F1, test",
        )

    return draw("Micro-F1 against time", text, paint, height=4.3)


def share_picture(manifest: Manifest) -> Picture:
    """How many rows of the test split leave at each exit."""
    profiles = manifest.test.exits
    names = [f"exit {profile.exit}" for profile in profiles]
    shares = [100 * profile.share_leaving for profile in profiles]
    text = f"Shares of rows leaving, in per cent: {listed(names, shares, 1)}."

    def paint(axes: Axes) -> None:
        numbers = [str(profile.exit) for profile in profiles]
        bars = axes.bar(numbers, shares, color=SERIES[0], width=0.6)
        axes.bar_label(bars, [f"{share:.1f}%" for share in shares], padding=2, fontsize=9)
        axes.set(xlabel="exit", ylabel="rows leaving (%)", ylim=(0, 1.12 * max(shares)))
        axes.grid(visible=False, axis="x")

    return draw("Rows leaving at each exit", text, paint, height=2.9)


def _by_epoch(epochs: list[dict[str, Any]], key: str, title: str, axis: str) -> Picture:
    from matplotlib.ticker import MaxNLocator

    numbers = [epoch["epoch"] for epoch in epochs]
    exits = [state["exit"] for state in epochs[0]["exits"]]
    lines = [[epoch["exits"][k][key] for epoch in epochs] for k in range(len(exits))]
    text = f"{title}, epochs {numbers[0]} to {numbers[-1]}. " + "; ".join(
        f"exit {number}: {line[0]:.3f} to {line[-1]:.3f}"
        for number, line in zip(exits, lines, strict=True)
    )
    turns = [
        (after["epoch"], after["phase"])
        for before, after in pairwise(epochs)
        if before["phase"] != after["phase"]
    ]

    def paint(axes: Axes) -> None:
        for k, (number, line) in enumerate(zip(exits, lines, strict=True)):
            colour, marker = series(k)
            every = max(len(numbers) // 12, 1)
            axes.plot(
                numbers, line, color=colour, marker=marker, markevery=every, label=f"exit {number}"
            )
        for epoch, phase in turns:
            axes.axvline(epoch - 0.5, color=INK, lw=0.8, ls="--")
            axes.text(
                epoch - 0.4, 0.98, phase, transform=axes.get_xaxis_transform(), va="top", fontsize=9
            )
        axes.set(xlabel="epoch", ylabel=axis, xlim=(numbers[0] - 0.5, numbers[-1] + 0.5))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))

    caption = "Dashed: where another phase of the training begins." if turns else ""
    return draw(title, f"{text}.", paint, caption)


def _mark_threshold(
    axes: Axes, curve: ThresholdCurve, threshold: float | None, colour: str, marker: str
) -> None:
    name = f"exit {curve.exit}"
    if threshold is None:
        axes.plot([], [], color=colour, label=f"{name}, off")
        return
    nearest = min(range(len(curve.thresholds)), key=lambda k: abs(curve.thresholds[k] - threshold))
    axes.plot(
        threshold,
        curve.envelope[nearest],
        marker,
        ms=9,
        color=colour,
        mec=INK,
        label=f"{name}, t = {threshold:.3f}",
        zorder=4,
    )


def _draw_curve(axes: Axes, curve: QualityCurve, number: int) -> None:
    times = [point.time for point in curve.points]
    quality = [point.micro_f1 for point in curve.points]
    colour, marker = series(number)
    if curve.method == STATIC:
        axes.plot(times, quality, "x", color=INK, ms=6, mew=1.6, label=curve.method, zorder=4)
        return
    first = number == 0  # the W path
    axes.plot(
        times,
        quality,
        color=colour,
        marker=marker,
        ms=4,
        markevery=max(len(times) // 10, 1),
        lw=2.2 if first else 1.1,
        ls="-" if first else (0, (4, 1.5)),
        label=curve.method,
        zorder=3.5 if first else 2,
    )
