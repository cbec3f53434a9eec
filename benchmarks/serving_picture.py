"""The side-by-side comparison as a picture: rows per second and latency, over (c)'s."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from serving_plan import TARGET_LOAD
from serving_rounds import PEER_KEY, Outcome
from serving_tables import f1_of, latency_ratio, ratio

WIDTH, BAR_HEIGHT, HEAD_HEIGHT = 10.0, 0.34, 1.1  # inches
OURS, OTHERS, FULL = "#1a7f5a", "#8a94a3", "#4a5464"
DOTS = 150


def draw(outcomes: Sequence[Outcome], path: Path) -> None:
    """Write the picture, a row of panels for every case; what is drawn went over JSON."""
    heights = [BAR_HEIGHT * len(outcome.contenders) + HEAD_HEIGHT for outcome in outcomes]
    figure = Figure(figsize=(WIDTH, sum(heights)), layout="constrained")
    panels = figure.subplots(
        len(outcomes), 2, squeeze=False, width_ratios=(1.5, 1), height_ratios=heights
    )
    for (rates, latencies), outcome in zip(panels, outcomes, strict=True):
        _rates(rates, outcome)
        _latencies(latencies, outcome)
    figure.savefig(path, dpi=DOTS, facecolor="white")


def _rates(axes: Axes, outcome: Outcome) -> None:
    keys, full = _keys(outcome), outcome.measured[PEER_KEY, "JSON"]
    ratios = [ratio(outcome.measured[key, "JSON"], full) for key in keys]
    middles = [float(np.median(values)) for values in ratios]
    axes.barh(range(len(keys)), middles, color=[_colour(key) for key in keys], height=0.7)
    for place, (key, values, middle) in enumerate(zip(keys, ratios, middles, strict=True)):
        axes.plot([values.min(), values.max()], [place, place], color="black", linewidth=1)
        told = f"{middle:.2f}   micro-F1 {f1_of(outcome, key):.3f}"
        axes.text(max(middle, values.max()) + 0.05, place, told, va="center", fontsize=8.5)
    axes.set_yticks(range(len(keys)), _names(outcome, keys), fontsize=9)
    axes.set_xlim(0, 1.45 * max(middles))
    _finish(axes, f"{outcome.case.name}: rows per second, over the full model's (c)")


def _latencies(axes: Axes, outcome: Outcome) -> None:
    keys, full = _keys(outcome), outcome.measured[PEER_KEY, "JSON"]
    for share, marker in (("p50", "o"), ("p99", "D")):
        for place, key in enumerate(keys):
            values = latency_ratio(outcome.measured[key, "JSON"], full, TARGET_LOAD, share)
            known = values[np.isfinite(values)]
            if len(known):
                axes.plot(known, [place] * len(known), color=_colour(key), alpha=0.35)
                label = share if place == 0 else None
                filled = _colour(key) if share == "p50" else "white"
                axes.plot(
                    np.median(known),
                    place,
                    marker,
                    color=_colour(key),
                    markerfacecolor=filled,
                    label=label,
                )
    axes.axvline(1, color="#c0c6cf", linewidth=1, zorder=0)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_yticks(range(len(keys)), [])
    axes.legend(fontsize=8.5, loc="upper right")
    _finish(axes, f"latency at {TARGET_LOAD:.0%} load, over (c)'s")


def _finish(axes: Axes, title: str) -> None:
    axes.set_title(title, fontsize=10, loc="left", fontweight="bold")
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8.5)


def _keys(outcome: Outcome) -> list[str]:
    return [contender.key for contender in outcome.contenders]


def _names(outcome: Outcome, keys: Sequence[str]) -> list[str]:
    named = {contender.key: contender.name for contender in outcome.contenders}
    return [f"({key}) {named[key]}" for key in keys]


def _colour(key: str) -> str:
    if key == PEER_KEY:
        return FULL
    return OURS if key.startswith("a") else OTHERS
