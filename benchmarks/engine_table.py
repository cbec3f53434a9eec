"""What the engine benchmark prints: tables, and targets with the figures beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Target:
    """A figure against what was asked for.

    met : None where there is no figure
    """

    what: str
    figure: str
    asked: str
    met: bool | None

    @property
    def row(self) -> tuple[str, ...]:
        """Its cells."""
        verdict = "-" if self.met is None else "met" if self.met else "missed"
        return self.what, self.figure, self.asked, verdict


@dataclass(frozen=True)
class Table:
    """Cells under a title and a sentence or two."""

    title: str
    text: str
    head: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]

    def plain(self) -> str:
        """Aligned columns."""
        widths = [max(map(len, column)) for column in zip(self.head, *self.rows, strict=True)]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in (self.head, *self.rows)
        ]
        return "\n".join([self.title, self.text, "", *lines, ""])

    def markdown(self) -> str:
        """As a section."""
        rule = ["---"] * len(self.head)
        lines = [f"| {' | '.join(row)} |" for row in (self.head, rule, *self.rows)]
        return "\n".join([f"### {self.title}", "", self.text, "", *lines, ""])


def spread(values: Sequence[float] | np.ndarray, digits: int = 3) -> str:
    """The median of the rounds, with the quartiles; a dash where there is none."""
    known = np.asarray(values, float)
    known = known[np.isfinite(known)]
    if not len(known):
        return "-"
    low, middle, high = np.quantile(known, [0.25, 0.5, 0.75])
    return f"{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def at_least(what: str, values: Sequence[float] | np.ndarray, least: float) -> Target:
    """A target for the median of the rounds."""
    return Target(what, spread(values), f"at least {least:g}", _meets(values, least, 1))


def at_most(
    what: str, values: Sequence[float] | np.ndarray, most: float, unit: str = "", digits: int = 2
) -> Target:
    """A target for the median of the rounds."""
    asked = f"at most {most:g} {unit}".rstrip()
    return Target(what, spread(values, digits), asked, _meets(values, most, -1))


def target_table(targets: Sequence[Target]) -> Table:
    """All targets of a run."""
    return Table(
        "Targets",
        "Medians of the rounds, with quartiles in brackets.",
        ("what", "figure", "target", ""),
        [target.row for target in targets],
    )


def _meets(values: Sequence[float] | np.ndarray, bound: float, sign: int) -> bool | None:
    known = np.asarray(values, float)
    known = known[np.isfinite(known)]
    return bool(sign * np.median(known) >= sign * bound) if len(known) else None
