"""Which layers get an exit: the last one by W to the labels, the others by what they gain.

A deeper layer is not always better: where the true labels count, nothing behind the layer that is
nearest to them is computed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from calibration.guarantee import Against
from models.measurements import Estimate, LayerProfile


@dataclass(frozen=True)
class Placement:
    """The layers that get an exit, by index, in depth order.

    exits : the last of them is the last exit
    full_depth : index of the full model
    left_out : why the other layers have none, by index
    """

    exits: tuple[int, ...]
    full_depth: int
    left_out: Mapping[int, str]

    @property
    def truncated(self) -> bool:
        """Whether the full model lies beyond the last exit."""
        return self.exits[-1] != self.full_depth

    def at_full_depth(self) -> Placement:
        """With the full model as a further exit behind the last one."""
        left_out = {k: reason for k, reason in self.left_out.items() if k != self.full_depth}
        return Placement((*self.exits, self.full_depth), self.full_depth, left_out)

    def without(self, layers: Mapping[int, str]) -> Placement:
        """Without some of the exits, for the reasons given."""
        kept = tuple(layer for layer in self.exits if layer not in layers)
        return Placement(kept, self.full_depth, {**self.left_out, **layers})


def place_exits(
    profiles: Sequence[LayerProfile],
    prior: float,
    against: Against,
    max_exits: int,
    keep_depth: bool,
    refused: Mapping[int, str] | None = None,
) -> Placement:
    """Choose the exits: those that make the area under W over time smallest.

    W over time is a staircase: after c milliseconds a row can have the answer of the deepest exit
    that ends by then. An exit's share of the area is its W-reduction times the time until the next
    exit, which stands for the rows that it can answer times what they save.

    Parameters
    ----------
    profiles : of every candidate layer, in depth order; the last is the full model
    prior : W of the best answer that does not look at the row
    against : model keeps the full depth; labels ends at the layer that is nearest to them
    max_exits : the most exits, the last included
    keep_depth : end at the full model in any case
    refused : layers that are not to be considered before the last, and why
    """
    full = len(profiles) - 1
    to_labels = against == "labels" and not keep_depth
    last = int(np.argmin([p.to_labels.w2.value for p in profiles])) if to_labels else full
    distances = [(p.to_labels if against == "labels" else p.to_teacher).w2 for p in profiles]
    left_out = dict.fromkeys(
        range(last + 1, full + 1),
        f"no nearer to the labels than {profiles[last].layer}, which ends the model",
    )
    if last != full:
        left_out[full] = left_out.pop(full) + " (--keep-depth keeps it)"
    left_out |= _without_gain(distances[:last], prior)
    left_out |= {k: reason for k, reason in (refused or {}).items() if k < last}
    early = [k for k in range(last) if k not in left_out]
    levels = {-1: prior, **{k: distance.value for k, distance in enumerate(distances)}}
    ends = {-1: 0.0, **dict(enumerate(np.cumsum([p.milliseconds for p in profiles]).tolist()))}
    exits = _smallest_area([*early, last], levels, ends, max_exits)
    left_out |= dict.fromkeys(
        set(early).difference(exits),
        f"the area under W over time is smaller without it (at most {max_exits} exits)",
    )
    return Placement(exits, full, left_out)


def _without_gain(distances: Sequence[Estimate], prior: float) -> dict[int, str]:
    """Layers that are not clearly nearer than every shallower one."""
    left_out = {}
    nearest = prior
    for layer, distance in enumerate(distances):
        noise = (distance.high - distance.low) / 2
        gain = nearest - distance.value
        if gain <= 0:
            left_out[layer] = "a shallower layer is at least as near"
        elif gain <= noise:
            left_out[layer] = (
                f"its gain in W over shallower layers, {gain:.3f}, is within its noise of "
                f"{noise:.3f}"
            )
        nearest = min(nearest, distance.value)
    return left_out


def _smallest_area(
    layers: Sequence[int], levels: Mapping[int, float], ends: Mapping[int, float], most: int
) -> tuple[int, ...]:
    """The exits, at most `most` of the layers and ending at their last, with the smallest integral.

    Parameters
    ----------
    levels : W of a layer's answers; of -1, before the first exit
    ends : when a layer's answer is there
    """
    last = layers[-1]
    paths: dict[int, tuple[float, tuple[int, ...]]] = {-1: (0.0, ())}  # by their last exit
    finished = []
    for _ in range(most):
        reached: dict[int, tuple[float, tuple[int, ...]]] = {}
        for layer in layers:
            steps = [
                (area + levels[before] * (ends[layer] - ends[before]), (*exits, layer))
                for before, (area, exits) in paths.items()
                if before < layer
            ]
            if steps:
                reached[layer] = min(steps)
        if last in reached:
            finished.append(reached[last])
        paths = {layer: path for layer, path in reached.items() if layer != last}
    return min(finished)[1]
