"""Pictures of the report: matplotlib figures as SVG that belongs inside an HTML page."""

from __future__ import annotations

import re
import unicodedata
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from io import StringIO
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 4.4  # inches, 317 units of the SVG: on a phone one unit is then about one pixel
HEIGHT = 3.5

# Stand-ins that no other part of a picture uses: the page's style sheet sets the real colours,
# one set for light and one for dark ground.
INK = "#010101"
GRID = "#020202"
GROUND = "#030303"
SERIES = tuple(f"#0400{number:02x}" for number in range(1, 8))
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p", "h")

_VARIABLES = {
    INK: "currentColor",
    GRID: "var(--grid)",
    GROUND: "var(--ground)",
    **{colour: f"var(--series{number})" for number, colour in enumerate(SERIES, start=1)},
}

_STYLE: dict[str, object] = {
    "svg.fonttype": "none",
    "font.family": ["sans-serif"],
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9.5,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 9.5,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "text.parse_math": False,  # a label may be called $x$
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "lines.markersize": 5,
    "lines.linewidth": 1.5,
}


@dataclass(frozen=True)
class Picture:
    """One figure of the page.

    title : what the picture shows, in a few words
    text : what it says, with its main numbers, for who cannot see it
    caption : how to read it; may be empty
    svg : markup, safe to place in a page as it is
    """

    title: str
    text: str
    caption: str
    svg: str


def series(number: int) -> tuple[str, str]:
    """Colour and marker of series 0, 1, 2, ...: no two of the first 63 share both."""
    return SERIES[number % len(SERIES)], MARKERS[number % len(MARKERS)]


def draw(
    title: str,
    text: str,
    paint: Callable[..., None],
    caption: str = "",
    height: float = HEIGHT,
    panels: int = 1,
) -> Picture:
    """Paint axes, one above the other.

    Parameters
    ----------
    paint : is given the axes of every panel, from the top, and draws everything but the title and
        the legend; labelled artists are in the legend
    height : inches; the width is WIDTH
    panels : how many; they share their x axis
    """
    with _styled(salt=title) as figure_class:
        figure = figure_class(figsize=(WIDTH, height), layout="constrained")
        axes = [figure.add_subplot(panels, 1, 1)]
        axes += [figure.add_subplot(panels, 1, k, sharex=axes[0]) for k in range(2, panels + 1)]
        paint(*axes)
        axes[0].set_title(title)
        _add_legend(figure, axes)
        markup = StringIO()
        figure.savefig(markup, format="svg", transparent=True)
    return Picture(title, text, caption, _inline(markup.getvalue(), text))


def short(name: str, width: int = 18) -> str:
    """A name as a picture can hold it: one line, its end kept, since names differ there."""
    plain = "".join(" " if unicodedata.category(c).startswith("C") else c for c in name)
    line = " ".join(plain.split())
    if len(line) <= width:
        return line
    head = width // 3
    return f"{line[:head]}…{line[head + 1 - width :]}"


def listed(names: Sequence[str], values: Sequence[float], digits: int = 3) -> str:
    """Names with their values, e.g. `stage 1 0.412, stage 2 0.398`."""
    return ", ".join(
        f"{name} {value:.{digits}f}" for name, value in zip(names, values, strict=True)
    )


def _add_legend(figure: Figure, axes: Sequence[Axes]) -> None:
    """One legend for all panels, below them."""
    entries = [
        entry for panel in axes for entry in zip(*panel.get_legend_handles_labels(), strict=True)
    ]
    if entries:
        handles, names = zip(*entries, strict=True)
        columns = 2 if max(map(len, names)) < 26 else 1
        figure.legend(handles, names, loc="outside lower center", ncols=columns)


@contextmanager
def _styled(salt: str) -> Iterator[type[Figure]]:
    """Style of the report, whatever the user's matplotlibrc says; the same ids in every run."""
    from matplotlib import style
    from matplotlib.figure import Figure

    with style.context(["default", {**_STYLE, "svg.hashsalt": salt}]), warnings.catch_warnings():
        # the browser has the fonts for labels in other scripts, matplotlib only measures them
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield Figure


def _inline(document: str, text: str) -> str:
    """Keep what a page needs of an SVG document: no prolog, no metadata, ids only where used."""
    markup = document[document.index("<svg") :]
    markup = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", markup, flags=re.DOTALL)
    view = re.search(r'viewBox="[^"]*"', markup)
    assert view is not None  # matplotlib always writes one
    opening = f'<svg {view.group()} role="img" aria-label="{escape(text)}">'
    markup = re.sub(r"^<svg[^>]*>", lambda _: opening, markup)
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', markup))
    markup = re.sub(r' id="([^"]*)"', lambda m: m.group() if m.group(1) in used else "", markup)
    markup = re.sub(r"\n\s*", "\n", markup)
    for stand_in, colour in _VARIABLES.items():
        markup = markup.replace(stand_in, colour)
    return markup.strip()
