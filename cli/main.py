"""The command `offramp`: calibration's commands, and those that need the service's code."""

from __future__ import annotations

import sys

import typer

from calibration.cli import app
from cli.monitor import app as monitor
from cli.predict import predict
from cli.simulate import simulate
from models.errors import OfframpError

USER_MISTAKE = 2

app.command()(predict)
app.command()(simulate)
app.add_typer(monitor, name="monitor")


def main() -> None:
    """Entry point: a mistake of the user's is one paragraph and exit code 2."""
    try:
        app()
    except OfframpError as error:
        typer.secho(f"error: {error}", err=True, fg=typer.colors.RED)
        sys.exit(USER_MISTAKE)
