"""`offramp inspect`, `export` and `push`: what one can do with a bundle that is there."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from calibration import cli_options as options

Directory = Annotated[Path, typer.Argument(help="Directory of the bundle.")]


def inspect(bundle: Directory, json_output: options.JsonOutput = False) -> None:
    """Show a bundle: stages, carries, costs, exits, thresholds, certificate, files."""
    from rich.console import Console

    from calibration.inspection import describe
    from models.bundle import read_bundle

    read = read_bundle(bundle)
    if json_output:
        typer.echo(read.manifest.model_dump_json(indent=2))
        return
    console = Console()
    for part in describe(read):
        console.print(part)


def export(
    bundle: Directory,
    stages: Annotated[
        Path, typer.Option(help="Folder for one ONNX file per stage, for other servers.")
    ],
) -> None:
    """Write the stages of a bundle as ONNX files."""
    from calibration.stage_files import write_stages
    from models.bundle import read_bundle

    for path in write_stages(read_bundle(bundle), stages):
        typer.echo(str(path))


def push(bundle: Directory) -> None:
    """Copy a bundle into the BentoML model store and print its tag."""
    import bentoml

    from models.bundle import MANIFEST, read_bundle

    read = read_bundle(bundle)
    with bentoml.models.create(f"offramp-{read.manifest.name}", module="offramp") as stored:
        for name in (MANIFEST, *read.manifest.files):
            Path(stored.path_of(name)).write_bytes((bundle / name).read_bytes())
    typer.echo(str(stored.tag))
