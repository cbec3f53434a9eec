"""The page that shows what was measured of the claims: tables and pictures."""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from claim_runs import Setting
from claim_statistics import (
    BOTH,
    CLAIMS,
    RULES,
    WITH,
    WITHOUT,
    Arm,
    Finding,
    Interval,
    holds,
    interval,
)

from models.machine import machine_name

PACKAGES = ("numpy", "scipy", "torch", "POT")

HEAD = """\
# Five claims about layers, measured

Cao, Li, Hu, Wu and Tan ("Towards interpreting deep neural networks via layer behavior
understanding", Machine Learning 111(3), 2022) look at what the layers of a network do through
distances between distributions. Five claims in the spirit of that paper are put to the test here,
with offramp's own networks and offramp's own distance; its algorithm is not reproduced. What did
not hold stands here like what held.

W is the exact 2-Wasserstein distance in label space between an exit's calibrated probabilities
and the true label sets of the same test rows: a root, the mean over sub-samples of at most 500
rows. Along epochs it is that of the probabilities before calibration, on held-out rows of the fit
split. Every exit is a linear head.

With auxiliary losses, all exits are trained together, each with weight 1. Without, the last exit
alone trains the network for as many epochs, from the same first weights and in the same order of
rows; then the early heads are trained on the frozen rest, for as many epochs again, so that along
epochs its early exits tell of their heads, and the last alone of the network. All networks have the
same data and splits; seeds draw weights, order and held-out rows.

Intervals are at 95 %, over seeds and resampled test rows (Student's, with the degrees of freedom of
the seeds where these matter most). With three seeds they are wide, that of a movement over seeds
most of all: it reaches to nine times the value. What another fit split would have given is not in
them, and they are not corrected for their number.

The digits are the images of the default bundle and the same eight residual blocks, with half the
fit rows, and with an exit behind every block instead of every second one.

The rules were fixed before anything was measured; what they say of W decides the claim. One thing
was added after a first look and decides nothing: how the held-out loss goes along epochs. W also
falls where probabilities only grow more confident, and then the loss rises.
"""


def verdict(held: bool | None) -> str:
    return {True: "held", False: "did not hold", None: ""}[held]


def words(estimate: Interval) -> str:
    return f"{estimate.value:.3f} ({estimate.low:.3f} to {estimate.high:.3f})"


def table(names: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [names, ["---"] * len(names), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def rules_list() -> str:
    both = zip(CLAIMS, RULES, strict=True)
    return "\n".join(
        f"{number}. **{claim}.** {rule}" for number, (claim, rule) in enumerate(both, 1)
    )


def summary_table(found: list[Finding]) -> str:
    rows = []
    for number, claim in enumerate(CLAIMS):
        cells = [verdict(holds(found, number, arm)) for arm in (WITH, WITHOUT)]
        if (both := holds(found, number, BOTH)) is not None:
            cells = [f"{verdict(both)}, {BOTH}", ""]
        rows.append([f"{number + 1}. {claim}", *cells])
    return table(["claim", WITH, WITHOUT], rows)


def statistics_table(found: list[Finding]) -> str:
    rows = [
        [str(each.claim + 1), each.arm, each.statistic, words(each.estimate), verdict(each.held)]
        for each in found
        if each.exit is None
    ]
    return table(["claim", "networks", "statistic", "value (interval)", ""], rows)


def exits_table(arms: Sequence[Arm], found: list[Finding]) -> str:
    """What was measured at each exit, and the statistics that each exit has of its own."""
    columns: dict[str, list[str]] = {"exit": [str(k + 1) for k in range(arms[0].depth)]}
    for arm in arms:
        for what, measured in (("W", arm.w), ("micro-F1", arm.f1)):
            columns[f"{what}, {arm.name}"] = [
                words(interval(measured.at(k))) for k in range(arm.depth)
            ]
    for each in found:
        if each.exit is not None:
            cell = f"{words(each.estimate)} {verdict(each.held)}"
            columns.setdefault(f"{each.claim + 1}: {each.statistic}", []).append(cell)
    names = list(columns)
    return "\n\n".join(
        table(chosen, zip(*(columns[name] for name in chosen), strict=True))
        for start in range(1, len(names), 4)
        for chosen in [["exit", *names[start : start + 4]]]
    )


def draw(arms: Sequence[Arm], found: list[Finding], path: Path) -> None:
    """Six panels: along depth, movement, along epochs, and what auxiliary losses change."""
    from matplotlib.figure import Figure
    from PIL import Image

    figure = Figure(figsize=(13, 7.5), layout="constrained")
    depth, quality, movement, first, second, change = figure.subplots(2, 3).ravel()
    exits = np.arange(1, arms[0].depth + 1)
    for arm, panel, shift in zip(arms, (first, second), (-0.08, 0.08), strict=True):
        for along, measured in ((depth, arm.w), (quality, arm.f1)):
            draw_points(
                along, exits + shift, [interval(measured.at(k)) for k in range(arm.depth)], arm.name
            )
        shares = [each.estimate for each in found if (each.claim, each.arm) == (3, arm.name)]
        draw_points(movement, np.arange(len(shares)) + shift, shares, arm.name, line="")
        draw_epochs(panel, arm)
    for name, decides, shift in (("W", True, -0.08), ("micro-F1", False, 0.08)):
        changes = [e.estimate for e in found if e.claim == 4 and e.decides == decides]
        draw_points(change, exits + shift, changes, name)
    depth.set(title="Claims 1 and 3: W along depth", xlabel="exit", ylabel="W to the labels")
    quality.set(title="Quality along depth", xlabel="exit", ylabel="micro-F1")
    movement.set(
        title="Claim 4: movement / difference between exits",
        xticks=range(3),
        xticklabels=["batches", "seeds", "input noise"],
        yscale="log",
        ylim=(1e-3, 1e2),  # an interval without end runs off the panel
    )
    movement.axhline(1, color="grey", linewidth=1)
    change.set(title="Claim 5: with minus without auxiliary losses", xlabel="exit")
    change.axhline(0, color="grey", linewidth=1)
    for panel in (depth, movement, change):
        panel.legend()
    for panel in (depth, quality, change, first, second):
        panel.locator_params(axis="x", integer=True)
    drawn = BytesIO()
    figure.savefig(drawn, dpi=80)
    Image.open(drawn).convert("RGB").quantize(128).save(path, optimize=True)


def draw_points(
    panel: Any, places: np.ndarray, estimates: Sequence[Interval], label: str, line: str = "-"
) -> None:
    value, low, high = (
        np.array([getattr(estimate, name) for estimate in estimates])
        for name in ("value", "low", "high")
    )
    reach = [value - low, np.nan_to_num(high, posinf=1000 * value.max()) - value]
    panel.errorbar(places, value, reach, fmt=f"o{line}", markersize=4, capsize=3, label=label)


def draw_epochs(panel: Any, arm: Arm) -> None:
    from matplotlib import colormaps

    shades = colormaps["viridis"](np.linspace(0, 0.9, arm.depth))
    for number, (of_exit, shade) in enumerate(zip(arm.epochs, shades, strict=True), 1):
        epochs = np.arange(1, of_exit.shape[1] + 1)
        panel.plot(epochs, of_exit.mean(axis=0), ".-", color=shade, label=str(number))
    panel.set(title=f"Claim 2: W along epochs, {arm.name}", xlabel="epoch that trained its head")
    panel.set_ylabel("W to the labels, mean over seeds")
    bottom, top = panel.get_ylim()
    panel.set_ylim(bottom, top + 0.25 * (top - bottom))  # room for the legend
    panel.legend(title="exit", ncols=4, fontsize="small", loc="upper right")


def section(
    setting: Setting, network: str, arms: Sequence[Arm], found: list[Finding], seconds: float
) -> str:
    """The markdown of one data set, below its title."""
    rows = ", ".join(f"{len(setting.rows(name)):,} {name}" for name in ("fit", "tune", "test"))
    given = [Path(word).name if "/" in word else word for word in sys.argv[1:]]
    versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    first = f"{network}, {arms[0].depth} exits; {len(setting.dataset.names)} labels; rows: {rows}."
    return "\n\n".join(
        [
            first,
            f"    {' '.join(['python benchmarks/claims.py', *given])}",
            f"Seeds 0 to {len(arms[0].noise) - 1}; {setting.epochs} epochs; {seconds:.0f} seconds "
            f"on {setting.threads} thread(s) of {machine_name()}; Python "
            f"{platform.python_version()}, {versions}.",
            summary_table(found),
            f"![What was measured on {setting.name}](claims-{setting.name}.png)",
            statistics_table(found),
            exits_table(arms, found),
        ]
    )


def write_page(page: Path, name: str, text: str) -> None:
    """Put the section of this data set in its old place, or at the end."""
    before = page.read_text(encoding="utf-8").split("\n## ")[1:] if page.exists() else []
    sections = dict(part.split("\n", 1) for part in before) | {name: f"\n{text}\n"}
    body = "".join(f"\n## {title}\n{content}" for title, content in sections.items())
    page.write_text(f"{HEAD}\n{rules_list()}\n{body}", encoding="utf-8")
