"""What the commands print: answers on standard output, progress on standard error."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from rich.progress import Progress

    from models.bundle import Bundle
    from models.measurements import Profile, Stability


def show(bundle: Bundle, as_json: bool) -> None:
    """Print a fresh bundle: its table, the guarantee and what the policy gives; or all as JSON."""
    from rich.console import Console

    from calibration.plan_report import plan_of, verdict
    from calibration.report import (
        correlation_sentence,
        cost_sentence,
        exit_table,
        policy_sentence,
    )

    manifest = bundle.manifest
    if as_json:
        typer.echo(manifest.model_dump_json(indent=2))
        return
    console = Console()
    console.print(exit_table(manifest))
    console.print(manifest.certificate.sentence)
    console.print(policy_sentence(manifest.test))
    console.print(correlation_sentence(manifest.profile))
    if manifest.depth > 1:
        console.print(cost_sentence(manifest.test.curves))
        console.print(verdict(plan_of(manifest)))
    for warning in manifest.warnings:
        console.print(f"Warning: {warning}")
    console.print(f"Bundle written to {bundle.path}; open {bundle.path}/report.html")


def show_profile(profile: Profile, warnings: Sequence[str], as_json: bool) -> None:
    """Print what was measured of every candidate layer."""
    from rich.console import Console

    from calibration.report import correlation_sentence, profile_table

    if as_json:
        typer.echo(profile.model_dump_json(indent=2))
        return
    console = Console()
    console.print(profile_table(profile))
    console.print(correlation_sentence(profile))
    for layer in profile.layers:
        console.print(f"{layer.layer}: {_stability(layer.stability)}")
    for warning in warnings:
        console.print(f"Warning: {warning}")


def _stability(stability: Stability) -> str:
    parts = [f"W to the labels moves by {stability.batches:.3f} over batches"]
    if stability.seeds is not None:
        parts.append(f"{stability.seeds:.3f} over seeds")
    if stability.noise is not None:
        parts.append(f"answers to slightly disturbed rows are {stability.noise:.3f} away")
    return ", ".join(parts)


def progress_bars() -> Progress:
    """Progress on standard error, so that standard output stays the command's answer."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        Task,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class RateColumn(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(f"{task.speed:.0f}/s" if task.speed else "")

    return Progress(
        TextColumn("{task.description:<24}"),
        BarColumn(),
        MofNCompleteColumn(),
        RateColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )
