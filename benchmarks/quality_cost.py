"""Quality against cost: offramp's policies beside other ways to leave early, over seeds.

    python benchmarks/quality_cost.py --data DATA [--minilm DIRECTORY] [--seeds 3]
        [--only digits]... [--out docs/results.md] [--picture docs/quality-cost.png]

DATA holds goemotions/ and mulan/ as their authors publish them; DIRECTORY is all-MiniLM-L6-v2 as a
Hugging Face directory. Every bundle is made by the command line, with nothing but the seed changed:
it draws splits, weights and order of rows. The curves are those of the bundles' own test splits.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np
from engine_table import Table
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from result_page import short, write_section

from calibration.quality_curves import W_PATH, relative_costs
from models.bundle import read_bundle
from models.machine import machine_name
from models.manifest import Manifest
from models.measurements import QualityCurve

HEADING = "## Quality against cost"
WORTH = "Early exit"
"""How the sentence of `offramp plan` about it begins."""
MULAN = (
    "offramp train --data DATA/mulan/{0}/{0}-train.arff --test DATA/mulan/{0}/{0}-test.arff "
    "--guarantee sample-f1 --against labels"
)
COMMANDS = {
    "digits": "offramp demo",
    "yeast": MULAN.format("yeast"),
    "bibtex": MULAN.format("bibtex"),
    "GoEmotions": (
        "offramp calibrate --model MINILM --data DATA/goemotions/train.tsv "
        "--tune DATA/goemotions/dev.tsv --test DATA/goemotions/test.tsv "
        "--label-names DATA/goemotions/labels.txt --against model --guarantee hamming "
        "--epsilon 0.03"
    ),
}
WIDTH, HEIGHT, DOTS = 10.0, 3.4, 120
FEW = 12


@dataclass(frozen=True)
class Made:
    """One bundle and what `offramp plan` says of it."""

    manifest: Manifest
    plan: str


def area(curve: QualityCurve, least: float, most: float) -> float:
    """Mean over computed times from `least` to `most` of the best micro-F1 for at most that time.

    The area under the curve, over its width; the best of settings, so its steps only go up.
    """
    points = sorted((point.time, point.micro_f1) for point in curve.points)
    times = np.array([time for time, _ in points])
    best = np.maximum.accumulate([quality for _, quality in points])
    bounds = np.unique([least, *times[(times > least) & (times < most)], most])
    at = np.searchsorted(times, bounds[:-1] + 1e-12, side="right") - 1
    return float(np.diff(bounds) @ best[at] / (most - least))


def compared(w_path: QualityCurve, other: QualityCurve) -> tuple[float, float] | None:
    """Areas of the W path and of another way, over the times that both reach; None without any."""
    least = max(min(point.time for point in curve.points) for curve in (w_path, other))
    most = max(max(point.time for point in curve.points) for curve in (w_path, other))
    if most <= least:
        return None
    return area(w_path, least, most), area(other, least, most)


def area_table(name: str, made: Sequence[Made]) -> Table:
    """Every other way beside the W path, over the seeds."""
    rows = []
    curves = [{c.method: c for c in one.manifest.test.curves} for one in made]
    for method in dict.fromkeys(method for one in curves for method in one if method != W_PATH):
        both = [
            pair
            for one in curves
            if W_PATH in one and method in one and (pair := compared(one[W_PATH], one[method]))
        ]
        costs = [
            cost
            for one in made
            if one.manifest.depth > 1
            and (cost := relative_costs(one.manifest.test.curves).get(method)) is not None
        ]
        if not both and not costs:
            continue
        rows.append(
            (
                method,
                str(len(both)),
                _told([ours for ours, _ in both], 4),
                _told([theirs for _, theirs in both], 4),
                _told([ours - theirs for ours, theirs in both], 4),
                _told(costs, 2),
            )
        )
    return Table(
        name,
        f"`{COMMANDS[name]} --seed 0` to `{len(made) - 1}`; means over the seeds that have both, "
        "with the least and the most in brackets. Micro-F1 is the mean over computed time of the "
        "best that a way reaches for it, over the times that both reach; cost is that of the W "
        f"path at equal micro-F1, over the other's. A way that shares neither with it is left out. "
        f"{_deployed(made)}",
        ("other way", "seeds", "W path's micro-F1", "its micro-F1", "ahead by", "cost over its"),
        rows or [("-",) * 6],
    )


def _deployed(made: Sequence[Made]) -> str:
    quality = [one.manifest.test.policy for one in made]
    certified = sum(one.manifest.certificate.certified for one in made)
    return (
        f"The deployed policies: {certified} of {len(made)} certified; micro-F1 "
        f"{_told([q.micro_f1.policy for q in quality], 4)} where full depth has "
        f"{_told([q.micro_f1.full_depth for q in quality], 4)}; "
        f"{_told([q.computed_time for q in quality], 2)} of its time."
    )


def _told(values: Sequence[float], digits: int) -> str:
    if not values:
        return "-"
    low, high = min(values), max(values)
    return f"{np.mean(values):.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def plan_table(made: Mapping[str, Sequence[Made]]) -> Table:
    """What `offramp plan` said beforehand, and what the time of the policy came to."""
    rows = [
        (
            name,
            str(seed),
            one.plan,
            "yes" if one.manifest.certificate.certified else "no",
            f"{one.manifest.test.policy.computed_time:.2f}",
            f"{one.manifest.test.policy.computed_time_single:.2f}",
        )
        for name, ones in made.items()
        for seed, one in enumerate(ones)
    ]
    return Table(
        "Where it pays",
        "What `offramp plan` says of each bundle; computed stage time of a row, as a share of the "
        "model's without exits, at the largest batch and at batch 1.",
        ("data", "seed", "`offramp plan`", "certified", "time", "time, batch 1"),
        rows,
    )


def draw(made: Mapping[str, Sequence[Made]], path: Path) -> None:
    """The curves of the first seed."""
    figure = Figure(figsize=(WIDTH, HEIGHT * ((len(made) + 1) // 2)), layout="constrained")
    panels = figure.subplots((len(made) + 1) // 2, 2, squeeze=False).ravel()
    for panel, (name, ones) in zip(panels, made.items(), strict=False):
        _draw_curves(panel, name, ones[0].manifest)
    for panel in panels[len(made) :]:
        panel.set_axis_off()
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=4, fontsize=8.5, frameon=False)
    figure.savefig(path, dpi=DOTS, facecolor="white")


def _draw_curves(panel: Axes, name: str, manifest: Manifest) -> None:
    if manifest.depth == 1:
        name = f"{name}: no early exit is worth its time"
    for curve in manifest.test.curves:
        points = sorted((point.time, point.micro_f1) for point in curve.points)
        ours = curve.method == W_PATH
        panel.plot(
            *zip(*points, strict=True),
            "-" if len(points) > FEW else "o",  # between few settings there is nothing
            linewidth=2.2 if ours else 1.0,
            markersize=3.5,
            color="#1a7f5a" if ours else None,
            zorder=3 if ours else 2,
            label=curve.method,
        )
    quality = manifest.test.policy
    panel.plot(
        quality.computed_time,
        quality.micro_f1.policy,
        "*",
        markersize=11,
        color="black",
        zorder=4,
        label="deployed policy",
    )
    panel.set_title(name, fontsize=10, loc="left", fontweight="bold")
    panel.set_xlabel("stage time of a row, share of the full model's", fontsize=8.5)
    panel.set_ylabel("micro-F1", fontsize=8.5)
    panel.tick_params(labelsize=8)
    panel.spines[["top", "right"]].set_visible(False)


def make(command: str, seed: int, work: Path, paths: Mapping[str, str]) -> Made:
    """Run the command with a seed, and ask what `offramp plan` says."""
    out = work / "bundle"
    _run([*_words(command, paths), "--seed", str(seed), "--out", str(out), "--force"], work)
    told = _run(["offramp", "plan", str(out)], work).split("\n\n")
    plain = [" ".join(paragraph.split()) for paragraph in told]
    sentences = [text[text.index(WORTH) :] for text in plain if WORTH in text]
    verdict = f"{sentences[0].split('. ')[0]}." if sentences else plain[-1]
    return Made(read_bundle(out).manifest, verdict)


def _words(command: str, paths: Mapping[str, str]) -> list[str]:
    words = []
    for word in command.split():
        for name, path in paths.items():
            word = path + word.removeprefix(name) if word.startswith(name) else word
        words.append(word)
    return words


def _run(words: Sequence[str], work: Path) -> str:
    program = Path(sys.executable).parent / words[0]
    environment = {**os.environ, "COLUMNS": "400"}
    result = subprocess.run(
        [program, *words[1:]], cwd=work, env=environment, stdout=subprocess.PIPE, text=True
    )
    if result.returncode:
        raise SystemExit(f"failed: {' '.join(words)}")
    return result.stdout


def parse(command: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, help="with goemotions/ and mulan/; without: digits")
    parser.add_argument("--minilm", type=Path, help="without it GoEmotions is left out")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", action="append", choices=COMMANDS)
    parser.add_argument("--out", type=Path, help="page whose section is replaced")
    parser.add_argument("--picture", type=Path, help="PNG of the curves of seed 0")
    arguments = parser.parse_args(command)
    arguments.command = command
    return arguments


def _chosen(arguments: argparse.Namespace) -> list[str]:
    names = [name for name in COMMANDS if not arguments.only or name in arguments.only]
    if not arguments.data:
        names = [name for name in names if "DATA" not in COMMANDS[name]]
    return [name for name in names if arguments.minilm or "MINILM" not in COMMANDS[name]]


def main(command: list[str]) -> None:
    begun, arguments = perf_counter(), parse(command)
    paths = {
        name: str(path.resolve())
        for name, path in (("DATA", arguments.data), ("MINILM", arguments.minilm))
        if path
    }
    made: dict[str, list[Made]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in _chosen(arguments):
            for seed in range(arguments.seeds):
                made.setdefault(name, []).append(make(COMMANDS[name], seed, Path(folder), paths))
                print(f"{name}, seed {seed}: {perf_counter() - begun:.0f} s", flush=True)
    page = (
        f"{HEADING}\n\n    python benchmarks/quality_cost.py {short(arguments.command)}\n\n"
        f"* {machine_name()}; MINILM is all-MiniLM-L6-v2, DATA the data as their authors publish "
        "them\n"
    )
    tables = [plan_table(made), *(area_table(name, ones) for name, ones in made.items())]
    for table in tables:
        print(table.plain())
    if arguments.picture:
        draw(made, arguments.picture)
    if arguments.out:
        write_section(arguments.out, HEADING, [page, *(table.markdown() for table in tables)])
    print(f"took {perf_counter() - begun:.0f} s")


if __name__ == "__main__":
    main(sys.argv[1:])
