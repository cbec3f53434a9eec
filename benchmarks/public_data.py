"""Early exit on public data, through the command line: the tables of docs/results.md.

    python benchmarks/public_data.py --data DATA --minilm DIRECTORY > docs/results.md

DATA holds goemotions/, mulan/ and resnet-cifar10/ as their authors publish them; DIRECTORY is
all-MiniLM-L6-v2 as a Hugging Face directory. Every command is printed as it was run, with these two
names in the place of the paths.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from calibration.quality_curves import relative_costs
from models.bundle import read_bundle
from models.machine import machine_name
from models.manifest import Manifest

MULAN = (
    "offramp train --data DATA/mulan/{0}/{0}-train.arff --test DATA/mulan/{0}/{0}-test.arff "
    "--guarantee sample-f1 --against labels --out bundles/{0}"
)


@dataclass(frozen=True)
class Case:
    """One data set: what it is, and the commands from its files to a bundle."""

    name: str
    title: str
    text: str
    commands: tuple[str, ...]


CASES = (
    Case(
        "emotions",
        "GoEmotions, by MiniLM-L6",
        "43,410 / 5,426 / 5,427 English comments, 28 labels (CC BY 4.0). The encoder is frozen and "
        "has no head of its own: every layer gets one. Held to the labels, the last layers are "
        "left out altogether; the regret is towards the full six layers.",
        (
            "offramp calibrate --model MINILM --data DATA/goemotions/train.tsv "
            "--tune DATA/goemotions/dev.tsv --test DATA/goemotions/test.tsv "
            "--label-names DATA/goemotions/labels.txt --out bundles/emotions",
        ),
    ),
    Case(
        "yeast",
        "yeast, by a trained MLP",
        "1,500 / 917 genes, 103 numbers, 14 labels (MULAN).",
        (MULAN.format("yeast"),),
    ),
    Case(
        "bibtex",
        "bibtex, by a trained MLP",
        "4,880 / 2,515 bookmarks, 1,836 sparse words, 159 labels (MULAN).",
        (MULAN.format("bibtex"),),
    ),
    Case(
        "tiles",
        "Tiles of CIFAR-10 images, by ResNet-56 as an ONNX file",
        "Real pixels, constructed label sets: 10,000 tiles of 2x2 test images, labelled with the "
        "classes that occur. The published weights, run over the tile, give the logits "
        "(examples/cifar_tiles).",
        (
            "python examples/cifar_tiles/make_model.py "
            "DATA/resnet-cifar10/resnet56-4bfd9763.th resnet56.onnx",
            "python examples/cifar_tiles/make_tiles.py "
            "DATA/resnet-cifar10/cifar10-test-jpg.zip tiles",
            "offramp calibrate --model resnet56.onnx --data tiles "
            "--split-column split --preprocessing examples/cifar_tiles/preprocessing.json "
            "--guarantee sample-f1 --epsilon 0.05 --out bundles/tiles",
        ),
    ),
)


def run(command: str, work: Path, paths: dict[str, str]) -> str:
    """Run one command in `work`; returns what it printed."""
    words = []
    for word in command.split():
        for name, path in paths.items():
            word = word.replace(name, path, 1) if word.startswith(name) else word
        words.append(word)
    program = Path(sys.executable).parent / words[0]
    environment = {**os.environ, "COLUMNS": "100", "XDG_CACHE_HOME": str(work / "cache")}
    result = subprocess.run(
        [program, *words[1:]], cwd=work, env=environment, stdout=subprocess.PIPE, text=True
    )
    if result.returncode:
        raise SystemExit(f"failed: {command}")
    return "\n".join(line.rstrip() for line in result.stdout.splitlines()).strip("\n")


def summary(case: Case, manifest: Manifest) -> str:
    policy, correlation = manifest.test.policy, manifest.profile.correlation
    costs = relative_costs(manifest.test.curves) if manifest.depth > 1 else {}
    dearest = max(
        ((cost, name) for name, cost in costs.items() if cost is not None), default=(None, "")
    )
    cells = (
        case.title,
        f"{policy.micro_f1.policy:.4f}",
        f"{policy.micro_f1.full_depth:.4f}",
        f"{policy.computed_time:.2f}",
        f"{policy.computed_time_single:.2f}",
        "yes" if manifest.certificate.certified else "no",
        f"{correlation.value:.2f} ({correlation.low:.2f} to {correlation.high:.2f})"
        if correlation
        else "-",
        f"{dearest[0]:.2f} ({dearest[1]})" if dearest[0] else "-",
    )
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--minilm", type=Path, required=True)
    parser.add_argument("--only", action="append", choices=[case.name for case in CASES])
    arguments = parser.parse_args()
    cases = [case for case in CASES if not arguments.only or case.name in arguments.only]
    root = Path(__file__).resolve().parent.parent
    paths = {
        "DATA": str(arguments.data.resolve()),
        "MINILM": str(arguments.minilm.resolve()),
        "examples/": f"{root}/examples/",
    }
    rows, sections = [], []
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        for case in cases:
            outputs = [run(command, work, paths) for command in case.commands]
            rows.append(summary(case, read_bundle(work / "bundles" / case.name).manifest))
            commands = "\n".join(f"    {command}" for command in case.commands)
            printed = "\n".join(f"    {line}".rstrip() for line in outputs[-1].splitlines()[:-1])
            sections.append(f"## {case.title}\n\n{case.text}\n\n{commands}\n\n{printed}\n")
    print(
        "# Results on public data\n\n"
        f"Made by `benchmarks/public_data.py` on {machine_name()}; one run, seed 0. Time is the "
        "computed stage time of a row as a share of the model's without exits, at batch 32 and at "
        "batch 1; micro-F1 is on the test split, which nothing was chosen on. Correlation is "
        "Spearman's, between W to the labels and micro-F1 over the candidate layers, with its 95 % "
        "interval. The last column is what the W path costs at equal micro-F1, in mean over "
        "quality levels, divided by what the cheapest other way to choose policies costs.\n\n"
        "| | micro-F1 | full model's | time | time, batch 1 | certified | correlation | "
        "W path / best baseline |\n"
        "|---|---|---|---|---|---|---|---|"
    )
    print("\n".join(rows) + "\n\n" + "\n".join(sections), end="")


if __name__ == "__main__":
    main()
