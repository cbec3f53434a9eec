"""Calibration's commands of the command line `offramp`; `cli.main` adds those of others."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from calibration import cli_options as options
from calibration import cli_values as values
from calibration.cli_bundle import export, inspect, push
from calibration.cli_calibrate import calibrate, profile
from calibration.cli_measure import evaluate, plan
from calibration.cli_output import progress_bars, show
from calibration.cli_train import train

app = typer.Typer(
    help="Make a trained multi-label classifier stop at the first layer that is sure enough.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

app.command()(calibrate)
app.command()(profile)
app.command()(train)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Directory of the new bundle.")] = Path(
        "bundles/digits"
    ),
    epsilon: options.Epsilon = None,
    delta: options.Delta = 0.05,
    seed: options.Seed = 0,
    force: options.Force = False,
    json_output: options.JsonOutput = False,
) -> None:
    """Train, calibrate and certify the default model on handwritten digits."""
    from calibration.demo import build_demo

    guarantee = values.guarantee_options({"epsilon": epsilon, "delta": delta})
    with progress_bars() as progress:
        bundle = build_demo(out, guarantee, progress, seed, force, command=values.command_line())
    show(bundle, json_output)


for command in (inspect, plan, evaluate, export, push):
    app.command()(command)
