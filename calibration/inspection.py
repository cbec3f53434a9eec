"""Shows a bundle to people who have only its directory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from calibration.report import exit_table, policy_sentence, with_spread

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from models.bundle import Bundle
    from models.manifest import Manifest


def describe(bundle: Bundle) -> Iterator[RenderableType]:
    """Parts to print, one after another."""
    manifest = bundle.manifest
    shown = ", ".join(manifest.labels[:8]) + (", …" if len(manifest.labels) > 8 else "")
    yield f"{manifest.name}: {len(manifest.labels)} labels ({shown})"
    yield f"reads {manifest.preprocessing.kind}: {_inputs(manifest)}"
    yield exit_table(manifest)
    yield _stages(manifest)
    yield _layers(manifest)
    yield manifest.certificate.sentence
    yield f"Method: {manifest.certificate.method}"
    yield policy_sentence(manifest.test)
    yield _files(bundle)


def _inputs(manifest: Manifest) -> str:
    def shape(sizes: tuple[int | None, ...]) -> str:
        return ", ".join("any" if size is None else str(size) for size in ("rows", *sizes))

    return "; ".join(f"{s.name} {s.dtype} ({shape(s.row_shape)})" for s in manifest.inputs)


def _stages(manifest: Manifest) -> Table:
    """Milliseconds of every stage at every batch, and what it carries on."""
    costs = manifest.costs
    table = _table("stages: milliseconds by rows per batch, and carry")
    for heading in ("stage", *map(str, costs.batch_rows), "carry"):
        table.add_column(heading, justify="left" if heading == "carry" else "right")
    for exit_, row in zip(manifest.exits, costs.stage_milliseconds, strict=True):
        table.add_row(str(exit_.number), *(f"{ms:.2f}" for ms in row), ", ".join(exit_.carry))
    if any(costs.beyond_milliseconds):
        beyond = (f"{ms:.2f}" for ms in costs.beyond_milliseconds)
        table.add_row("left out", *beyond, "")
    return table


def _layers(manifest: Manifest) -> Table:
    """The profile of every candidate layer on the tune split."""
    table = _table("candidate layers on the tune split")
    for heading in ("layer", "W to teacher", "W to labels", "micro-F1", "exit"):
        table.add_column(heading, justify="left" if heading == "layer" else "right")
    exits = {exit_.layer: str(exit_.number) for exit_ in manifest.exits}
    for profile in manifest.profile:
        table.add_row(
            profile.layer,
            with_spread(profile.w_teacher),
            with_spread(profile.w_labels),
            f"{profile.micro_f1:.4f}",
            exits.get(profile.layer, ""),
        )
    return table


def _files(bundle: Bundle) -> Table:
    table = _table("files")
    for heading in ("name", "bytes", "sha256"):
        table.add_column(heading, justify="right" if heading == "bytes" else "left")
    for name, digest in bundle.manifest.files.items():
        table.add_row(name, f"{len(bundle.files[name]):,}", f"{digest[:16]}…")
    return table


def _table(title: str) -> Table:
    from rich import box
    from rich.table import Table

    return Table(title=title, box=box.SIMPLE_HEAD, padding=0, title_justify="left")
