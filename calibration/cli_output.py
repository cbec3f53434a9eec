"""What the commands print: answers on standard output, progress on standard error."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from rich.progress import Progress

    from models.bundle import Bundle


def show(bundle: Bundle, as_json: bool) -> None:
    """Print a fresh bundle: its table, the guarantee and what the policy gives; or all as JSON."""
    from rich.console import Console

    from calibration.report import exit_table, policy_sentence

    manifest = bundle.manifest
    if as_json:
        typer.echo(manifest.model_dump_json(indent=2))
        return
    console = Console()
    console.print(exit_table(manifest))
    console.print(manifest.certificate.sentence)
    console.print(policy_sentence(manifest.test))
    console.print(f"Bundle written to {bundle.path}")


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
