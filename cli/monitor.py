"""`offramp monitor`: what a server's monitor has found, and the end of a fallback."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(help="Does a server keep what its certificate promises?", no_args_is_help=True)

Url = Annotated[str, typer.Argument(help="The server: http://host:3000 or https://.")]
Key = Annotated[
    str | None,
    typer.Option(
        envvar="OFFRAMP_KEY",
        show_envvar=True,
        help="Where the server asks for one; the variable keeps it out of the list of processes.",
    ),
]
Ca = Annotated[
    Path | None,
    typer.Option(
        help="PEM file of the authority of the server's certificate.", exists=True, dir_okay=False
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the server's own words.")]
FELL_BACK = 1


@app.command()
def status(url: Url, key: Key = None, ca: Ca = None, as_json: AsJson = False) -> None:
    """What has it found? Exit code 1 if a model has fallen back to full depth."""
    found = _call("GET", url, "monitor", key, ca)
    typer.echo(json.dumps(found) if as_json else "\n".join(map(_told, found)))
    if any(model["fell_back"] for model in found):
        raise typer.Exit(FELL_BACK)


@app.command()
def reset(
    url: Url,
    model: Annotated[str | None, typer.Option(help="By default the server's first model.")] = None,
    key: Key = None,
    ca: Ca = None,
    as_json: AsJson = False,
) -> None:
    """Serve the certified policy again; the evidence begins anew.

    Find out first why more was lost than promised: where the inputs have changed, calibrate again.
    """
    body = {"model": model} if model else {}
    found = _call("POST", url, "monitor/reset", key, ca, body)
    typer.echo(json.dumps(found) if as_json else _told(found))


def _call(
    method: str, url: str, path: str, key: str | None, ca: Path | None, body: Any = None
) -> Any:
    from cli.http_call import http_call

    return asyncio.run(http_call(method, url, path, key, ca, body))


def _told(model: dict[str, Any]) -> str:
    """A paragraph about one model."""
    lines = [f"{model['model']} {model['version']}: serves the {model['policy']} policy"]
    if fell_back := model["fell_back"]:
        lines.append(
            f"  fell back to full depth at {fell_back['at']} after {fell_back['rows']} rows: "
            f"{fell_back['reason']} (offramp monitor reset ends it)"
        )
    lines += [
        f"  {loss}: {mean:.4f} lost of late, at most {model['limit'][loss]:.4f} promised"
        for loss, mean in model["loss"].items()
    ]
    lines.append(
        f"  evidence {model['evidence']:.3g} of {model['alarm_at']:.3g} after {model['rows']} rows "
        "compared with full depth"
    )
    return "\n".join(lines)
