"""Tables of the report: rows of text, made from the manifest alone."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from models.manifest import Manifest
    from models.measurements import Distances, Estimate

NOTHING = "-"
MOST_ROWS = 40
LONGEST_FACT = 300
Row = tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """One table of the page.

    caption : what it shows, and its units
    heads : one per column
    texts : how many columns, from the first, hold words; the others hold numbers
    rows : shown at once
    folded : shown when the reader unfolds them
    """

    caption: str
    heads: Row
    texts: int
    rows: tuple[Row, ...]
    folded: tuple[Row, ...] = ()


def distance_tables(manifest: Manifest) -> tuple[Table, Table]:
    """Every layer's distances to the labels, and to the teacher."""
    profile = manifest.profile
    heads = ("layer", "W2", "W1", "sliced", "Bures", "Sinkhorn")
    tables = []
    for target, distances, floor in (
        ("labels", [layer.to_labels for layer in profile.layers], profile.floor_labels),
        ("teacher", [layer.to_teacher for layer in profile.layers], profile.floor_teacher),
    ):
        names = [layer.layer for layer in profile.layers]
        rows = [(name, *_five(five)) for name, five in zip(names, distances, strict=True)]
        rows.append(("noise floor", *_five(floor)))
        caption = f"Distances to the {target}, with 95% intervals."
        tables.append(Table(caption, heads, 1, tuple(rows)))
    return tables[0], tables[1]


def stability_table(manifest: Manifest) -> Table:
    """Every layer's time and quality, and how stable its distance to the labels is."""
    rows = tuple(
        (
            layer.layer,
            number(layer.milliseconds, 3),
            estimate(layer.micro_f1, 4),
            number(layer.stability.batches),
            number(layer.stability.seeds),
            number(layer.stability.noise),
        )
        for layer in manifest.profile.layers
    )
    heads = ("layer", "stage ms", "micro-F1", "over batches", "over seeds", "under input noise")
    caption = (
        f"Stability: standard deviation of W2 to the labels over batches of "
        f"{manifest.profile.batch_rows} rows, and over heads trained with other seeds; W2 between "
        "a layer's answers to rows and to the same rows slightly disturbed."
    )
    return Table(caption, heads, 1, rows)


def placement_table(manifest: Manifest) -> Table:
    """Why each candidate layer has an exit, or has none."""
    rows = tuple(
        (decision.layer, NOTHING if decision.exit is None else str(decision.exit), decision.reason)
        for decision in manifest.placement
    )
    return Table("Candidate layers in depth order.", ("layer", "exit", "reason"), 3, rows)


def score_table(manifest: Manifest) -> Table | None:
    """How well each kind of score tells lost rows, per early exit; None with one exit."""
    auroc = manifest.score.auroc
    early = max((len(values) for values in auroc.values()), default=0)
    if not early:
        return None
    rows = tuple(
        (
            f"{kind} (chosen)" if kind == manifest.score.kind else kind,
            *(number(v, 3) for v in values),
        )
        for kind, values in auroc.items()
    )
    heads = ("score", *(f"exit {k}" for k in range(1, early + 1)))
    return Table("AUROC of telling rows that are not lost, tune split.", heads, 1, rows)


def cost_table(manifest: Manifest) -> Table:
    """Measured milliseconds of every part, by rows per batch."""
    costs = manifest.costs
    parts: list[tuple[str, Sequence[float]]] = [
        (f"stage {k}, to {exit_.layer}", stage)
        for k, (exit_, stage) in enumerate(
            zip(manifest.exits, costs.stage_milliseconds, strict=True), start=1
        )
    ]
    parts += [
        (f"what exit {k} costs", exit_) for k, exit_ in enumerate(costs.exit_milliseconds, start=1)
    ]
    parts += [
        ("behind the last exit, left out of the bundle", costs.beyond_milliseconds),
        ("in one piece, without early exits", costs.whole_milliseconds),
    ]
    rows = tuple((name, *(number(value, 3) for value in values)) for name, values in parts)
    heads = ("ms", *(f"batch {rows}" for rows in costs.batch_rows))
    return Table(f"Medians, one thread, on {costs.machine}.", heads, 1, rows)


def split_table(manifest: Manifest) -> Table:
    """Rows and hash of every split."""
    rows = tuple((name, facts.sha256, f"{facts.rows:,}") for name, facts in manifest.splits.items())
    caption = "Splits, by the hash of their rows and label sets."
    return Table(caption, ("split", "sha256", "rows"), 2, rows)


def facts_table(manifest: Manifest) -> Table:
    """What calibration recorded: seed, options, versions, command; epochs only by number."""
    rows = tuple((name, _cut(value)) for name, value in _flat(manifest.facts))
    return folded("As recorded in manifest.json.", ("fact", "value"), 2, rows)


def folded(caption: str, heads: Row, texts: int, rows: tuple[Row, ...]) -> Table:
    """A table of which only the first MOST_ROWS are shown at once."""
    return Table(caption, heads, texts, rows[:MOST_ROWS], rows[MOST_ROWS:])


def number(value: float | None, digits: int = 4) -> str:
    """A number as tables show it; a dash where there is none."""
    return NOTHING if value is None else f"{value:.{digits}f}"


def estimate(value: Estimate, digits: int = 3) -> str:
    """A value and its interval, e.g. `0.578 (0.561 to 0.595)`."""
    return f"{value.value:.{digits}f} ({value.low:.{digits}f} to {value.high:.{digits}f})"


def percent(share: float) -> str:
    """A share, e.g. `58.2%`."""
    return f"{share:.1%}"


def _five(distances: Distances) -> Row:
    five = (distances.w2, distances.w1, distances.sliced, distances.bures, distances.sinkhorn)
    return tuple(map(estimate, five))


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _flat(inner, f"{path}.{key}" if path else str(key))
    elif path == "training.epochs":
        yield path, f"{len(value)} (shown above)"
    else:
        yield path, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST_FACT else f"{text[:LONGEST_FACT]}…"
