"""The command line `offramp`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from models.errors import OfframpError

if TYPE_CHECKING:
    from rich.progress import Progress

app = typer.Typer(
    help="Make a trained multi-label classifier stop at the first layer that is sure enough.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

USER_MISTAKE = 2


@app.callback()
def _offramp() -> None:
    """Keep subcommands even while there is only one."""


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Directory of the new bundle.")] = Path(
        "bundles/digits"
    ),
    epsilon: Annotated[
        float, typer.Option(help="Share of label sets that may differ from the full model's.")
    ] = 0.02,
    delta: Annotated[float, typer.Option(help="Chance that the promise does not hold.")] = 0.05,
    seed: Annotated[int, typer.Option(min=0, help="Seed of data, training and sub-samples.")] = 0,
    force: Annotated[bool, typer.Option("--force", help="Replace a bundle that is there.")] = False,
    json_output: Annotated[
        bool, typer.Option("--json", help="Print the manifest as JSON.")
    ] = False,
) -> None:
    """Train, calibrate and certify the default model on handwritten digits."""
    from rich.console import Console

    from calibration.demo import build_demo
    from calibration.pipeline import CalibrationOptions
    from calibration.report import exit_table, policy_sentence

    options = CalibrationOptions(name="digits", epsilon=epsilon, delta=delta, seed=seed)
    with progress_bars() as progress:
        bundle = build_demo(out, options, progress, force)
    if json_output:
        typer.echo(bundle.manifest.model_dump_json(indent=2))
        return
    console = Console()
    console.print(exit_table(bundle.manifest))
    console.print(bundle.manifest.certificate.sentence)
    console.print(policy_sentence(bundle.manifest.test))
    console.print(f"Bundle written to {out}")


@app.command()
def push(
    bundle: Annotated[Path, typer.Argument(help="Directory of the bundle.")],
) -> None:
    """Copy a bundle into the BentoML model store and print its tag."""
    import bentoml

    from models.bundle import MANIFEST, read_bundle

    read = read_bundle(bundle)
    with bentoml.models.create(f"offramp-{read.manifest.name}", module="offramp") as stored:
        for name in (MANIFEST, *read.manifest.files):
            Path(stored.path_of(name)).write_bytes((bundle / name).read_bytes())
    typer.echo(str(stored.tag))


def progress_bars() -> Progress:
    """Progress on standard error, so that standard output stays the command's answer."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    return Progress(
        TextColumn("{task.description:<24}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
    )


def main() -> None:
    """Entry point: a mistake of the user's is one paragraph and exit code 2."""
    try:
        app()
    except OfframpError as error:
        typer.secho(f"error: {error}", err=True, fg=typer.colors.RED)
        raise SystemExit(USER_MISTAKE) from None
