"""Pictures of the layers: distance and quality along depth, and label by depth."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from calibration.report_svg import INK, SERIES, Picture, draw, listed, short
from models.measurements import Estimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from models.manifest import Manifest

MOST_NAMED_LAYERS = 30
MOST_LABELS = 40
MOST_CELLS_WITH_NUMBERS = 320
TALL = 5.2  # inches


def depth_pictures(manifest: Manifest) -> tuple[Picture, Picture]:
    """W2 by depth to labels and to teacher, and micro-F1 by depth, of the tune split."""
    return _distance_by_depth(manifest), _quality_by_depth(manifest)


def heat_map(manifest: Manifest) -> Picture:
    """One-dimensional W1 to the labels: one line per label, one column per layer.

    Of more than MOST_LABELS labels those with the largest spread over the layers are shown.
    """
    layers = manifest.profile.layers
    matrix = np.array([layer.to_labels.per_label for layer in layers]).T  # (L, layers)
    spread = np.ptp(matrix, axis=1)
    kept = np.sort(np.argsort(-spread, kind="stable")[:MOST_LABELS])
    matrix, spread = matrix[kept], spread[kept]
    names = [manifest.labels[k] for k in kept]
    left_out = len(manifest.labels) - len(kept)
    widest = int(np.argmax(spread))
    text = (
        f"Heat map of {len(names)} labels by {len(layers)} layers. W1 lies between "
        f"{matrix.min():.4f} and {matrix.max():.4f}; it changes most along depth for the label "
        f"{names[widest]}, by {spread[widest]:.4f}."
    )
    caption = (
        "One-dimensional W1 between a label's probabilities and its true values: small is near."
    )
    if left_out:
        caption += (
            f" The {len(names)} labels whose distance changes most along depth; {left_out} others "
            "are left out."
        )

    def paint(axes: Axes) -> None:
        image = axes.imshow(matrix, cmap="cividis", aspect="auto", interpolation="none")
        axes.set_yticks(range(len(names)), [short(name) for name in names], fontsize=8)
        axes.grid(False)
        _name_layers(axes, manifest)
        if matrix.size <= MOST_CELLS_WITH_NUMBERS:
            _write_cells(axes, matrix)
        axes.figure.colorbar(image, ax=axes, label="W1 to the label", location="bottom", aspect=40)

    height = 1.8 + 0.19 * max(len(names), 3)
    return draw("Distance of every label", text, paint, caption, height)


def _distance_by_depth(manifest: Manifest) -> Picture:
    profile = manifest.profile
    layers = profile.layers
    targets = {
        "labels": ([layer.to_labels.w2 for layer in layers], profile.floor_labels.w2),
        "teacher": ([layer.to_teacher.w2 for layer in layers], profile.floor_teacher.w2),
    }
    names = [layer.layer for layer in layers]
    text = "Exact W2 by depth. " + " ".join(
        f"To the {target}: {listed(names, [e.value for e in estimates])}; noise floor "
        f"{floor.value:.3f}."
        for target, (estimates, floor) in targets.items()
    )

    def paint(*panels: Axes) -> None:
        for number, (axes, target) in enumerate(zip(panels, targets, strict=True)):
            estimates, floor = targets[target]
            colour = SERIES[number]
            axes.axhspan(floor.low, floor.high, color=colour, alpha=0.15, linewidth=0)
            axes.axhline(floor.value, color=colour, ls="--", lw=1, label="its noise floor")
            _with_intervals(axes, estimates, colour, "os"[number], f"to the {target}")
            axes.set_ylabel(f"W2, {target}")
            _draw_exits(axes, manifest)
        panels[1].set_ylim(0, None)
        panels[0].tick_params(labelbottom=False)
        _name_layers(panels[1], manifest)
        _number_exits(panels[0], manifest)

    return draw("W-distance by depth", text, paint, height=TALL, panels=2)


def _quality_by_depth(manifest: Manifest) -> Picture:
    layers = manifest.profile.layers
    estimates = [layer.micro_f1 for layer in layers]
    values = [estimate.value for estimate in estimates]
    text = f"Micro-F1 by depth: {listed([layer.layer for layer in layers], values)}."

    def paint(axes: Axes) -> None:
        _with_intervals(axes, estimates, SERIES[2], "D", "micro-F1, all rows answered there")
        axes.set(ylabel="micro-F1, tune split")
        _name_layers(axes, manifest)
        _draw_exits(axes, manifest)
        _number_exits(axes, manifest)

    return draw("Quality by depth", text, paint, height=TALL)


def _with_intervals(
    axes: Axes, estimates: Sequence[Estimate], colour: str, marker: str, name: str
) -> None:
    values = np.array([e.value for e in estimates])
    low = values - [e.low for e in estimates]
    high = [e.high for e in estimates] - values
    # an interval of another estimator need not hold the value: errorbar refuses less than nothing
    errors = np.maximum([low, high], 0)
    axes.errorbar(
        range(len(values)), values, errors, color=colour, marker=marker, capsize=3, label=name
    )


def _name_layers(axes: Axes, manifest: Manifest) -> None:
    """Layers in depth order on the x axis, each with the time until its end."""
    layers = manifest.profile.layers
    until = np.cumsum([layer.milliseconds for layer in layers])
    step = -(-len(layers) // MOST_NAMED_LAYERS)
    # counted from full depth, so that the last layer always has its name
    ticks = range((len(layers) - 1) % step, len(layers), step)
    names = [f"{short(layers[k].layer, 16)} · {_milliseconds(until[k])}" for k in ticks]
    many = len(layers) > 8
    axes.set_xticks(ticks, names, fontsize=8 if many else 8.5, rotation=90 if many else 40)
    if not many:
        for name in axes.get_xticklabels():
            name.set(ha="right", rotation_mode="anchor")
    axes.set_xlabel("layer · ms until its end", fontsize=9)


def _milliseconds(value: float) -> str:
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"


def _exit_places(manifest: Manifest) -> dict[int, int]:
    """Place among the layers, by number of exit."""
    places = {layer.layer: place for place, layer in enumerate(manifest.profile.layers)}
    return {e.number: places[e.layer] for e in manifest.exits if e.layer in places}


def _draw_exits(axes: Axes, manifest: Manifest) -> None:
    for place in _exit_places(manifest).values():
        axes.axvline(place, color=INK, lw=0.8, ls=(0, (1, 3)), zorder=0.5)


def _number_exits(axes: Axes, manifest: Manifest) -> None:
    """Numbers of the placed exits along the top."""
    places = _exit_places(manifest)
    top = axes.secondary_xaxis("top")
    top.set_xticks(list(places.values()), [str(number) for number in places], fontsize=9)
    top.set_xlabel("exit", fontsize=9)
    top.spines["top"].set_visible(False)


def _write_cells(axes: Axes, matrix: np.ndarray) -> None:
    middle = (matrix.min() + matrix.max()) / 2
    digits = 3 if matrix.shape[1] <= 8 else 2
    for (row, column), value in np.ndenumerate(matrix):
        ink = "black" if value > middle else "white"
        axes.text(
            column, row, f"{value:.{digits}f}", ha="center", va="center", color=ink, fontsize=7.5
        )
