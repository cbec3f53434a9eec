"""`offramp predict`: files to a server, a line of JSON per row back."""

from __future__ import annotations

import asyncio
import json
import sys
from contextlib import aclosing
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from cli.predict_run import Sending

SERVER, REQUEST = "Server", "Requests"
SOME_FAILED = 1


class PriorityName(StrEnum):
    """`--priority`."""

    interactive = "interactive"
    batch = "batch"


NUMBERS = {PriorityName.interactive: 1, PriorityName.batch: 2}
"""As Triton's clients say it."""


def predict(
    url: Annotated[
        str,
        typer.Argument(
            help="The server: http://host:3000, https://, grpc://host:3001 or grpcs://.",
        ),
    ],
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE...",
            help="Images; .txt with a text per line; .jsonl with objects that have `text`, or with "
            "arrays of numbers; .csv of numbers; .npy, or .npz with `x`; - for lines of standard "
            "input.",
        ),
    ],
    model: Annotated[
        str | None,
        typer.Option(help="Needed where the server has several.", rich_help_panel=SERVER),
    ] = None,
    key: Annotated[
        str | None,
        typer.Option(
            envvar="OFFRAMP_KEY",
            show_envvar=True,
            help="Where the server asks for one; the variable keeps it out of the list of "
            "processes.",
            rich_help_panel=SERVER,
        ),
    ] = None,
    ca: Annotated[
        Path | None,
        typer.Option(
            help="PEM file of the authority of the server's certificate.",
            exists=True,
            dir_okay=False,
            rich_help_panel=SERVER,
        ),
    ] = None,
    policy: Annotated[
        str | None,
        typer.Option(help="certified (the default), full, or exit:<k>.", rich_help_panel=REQUEST),
    ] = None,
    max_exit: Annotated[
        int | None, typer.Option(help="No row goes deeper.", rich_help_panel=REQUEST)
    ] = None,
    deadline_ms: Annotated[
        float | None, typer.Option(help="Of every request.", rich_help_panel=REQUEST)
    ] = None,
    priority: Annotated[
        PriorityName, typer.Option(help="Batch rows wait for others.", rich_help_panel=REQUEST)
    ] = PriorityName.interactive,
    batch: Annotated[
        int, typer.Option(min=1, help="Rows of a request.", rich_help_panel=REQUEST)
    ] = 32,
    parallel: Annotated[
        int, typer.Option(min=1, help="Requests at the same time.", rich_help_panel=REQUEST)
    ] = 4,
    fail_fast: Annotated[
        bool, typer.Option("--fail-fast", help="Stop at the first row that fails.")
    ] = False,
) -> None:
    """Which labels do the rows of files have, says a server?

    A line of JSON per row, in the rows' order. Exit code 1 if any row failed.
    """
    from cli.predict_run import Sending

    chosen = {"policy": policy, "max_exit": max_exit, "deadline_ms": deadline_ms}
    parameters = {name: value for name, value in chosen.items() if value is not None}
    options = {"parameters": parameters, "priority": NUMBERS[priority]}
    sending = Sending(options, batch, parallel)
    failed = asyncio.run(_predict(url, files, model, key, ca, sending, fail_fast))
    if failed:
        typer.echo(f"{failed} {'row' if failed == 1 else 'rows'} failed", err=True)
        raise typer.Exit(SOME_FAILED)


async def _predict(
    url: str,
    files: list[str],
    model: str | None,
    key: str | None,
    ca: Path | None,
    sending: Sending,
    fail_fast: bool,
) -> int:
    """Print the answers; returns how many rows failed."""
    from calibration.cli_output import progress_bars
    from cli.predict_client import ModelClient
    from cli.predict_rows import check_files, count_rows, rows_of
    from cli.predict_run import answers

    client = ModelClient(url, key, ca)
    failed = 0
    try:
        taken = await client.describe(model)
        check_files(files, taken)
        # in a terminal the lines themselves are the progress; elsewhere the bar must not take them
        output, bars = sys.stdout, progress_bars()
        bars.disable = output.isatty()
        with bars as progress:
            task = progress.add_task("predict", total=count_rows(files, taken))
            async with aclosing(answers(client, taken, rows_of(files, taken), sending)) as found:
                async for document in found:
                    typer.echo(_line(document), file=output)
                    progress.advance(task)
                    failed += "error" in document
                    if failed and fail_fast:
                        break
    finally:
        await client.close()
    return failed


def _line(document: dict[str, Any]) -> str:
    return json.dumps(document, ensure_ascii=False, allow_nan=False)
