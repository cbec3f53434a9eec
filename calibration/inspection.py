"""Shows a bundle to people who have only its directory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from calibration.report import (
    correlation_sentence,
    cost_sentence,
    exit_table,
    policy_sentence,
    profile_table,
)

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
    yield profile_table(manifest.profile, {e.layer: e.number for e in manifest.exits})
    yield correlation_sentence(manifest.profile)
    freezing = ", labels freeze" if manifest.score.frozen_labels else ""
    yield f"Score: {manifest.score.kind}{freezing}"
    yield manifest.certificate.sentence
    yield f"Method: {manifest.certificate.method}"
    yield policy_sentence(manifest.test)
    if manifest.depth > 1:
        yield cost_sentence(manifest.test.curves)
    yield from (f"Warning: {warning}" for warning in manifest.warnings)
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
