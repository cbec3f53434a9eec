"""Which layers get an exit: the last one by W to the labels, the others by what they gain.

A deeper layer is not always better: where the true labels count, nothing behind the layer that is
nearest to them is computed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from calibration.guarantee import Against
from models.manifest import LayerProfile


@dataclass(frozen=True)
class Placement:
    """The layers that get an exit, by index, in depth order.

    exits : the last of them is the last exit
    full_depth : index of the full model
    """

    exits: tuple[int, ...]
    full_depth: int

    @property
    def truncated(self) -> bool:
        """Whether the full model lies beyond the last exit."""
        return self.exits[-1] != self.full_depth


def place_exits(
    profiles: Sequence[LayerProfile],
    milliseconds: Sequence[float],
    prior: float,
    against: Against,
    max_exits: int,
    keep_depth: bool,
) -> Placement:
    """Choose the exits: those that make the area under W over time smallest.

    W over time is a staircase: after c milliseconds a row can have the answer of the deepest exit
    that ends by then. An exit's share of the area is its W-reduction times the time until the next
    exit, which stands for the rows that it can answer times what they save.

    Parameters
    ----------
    profiles : of every candidate layer, in depth order; the last is the full model
    milliseconds : of the stage that ends at each layer
    prior : W of the best answer that does not look at the row
    against : model keeps the full depth; labels ends at the layer that is nearest to them
    max_exits : the most exits, the last included
    keep_depth : end at the full model in any case
    """
    full = len(profiles) - 1
    to_labels = against == "labels" and not keep_depth
    last = int(np.argmin([p.w_labels.value for p in profiles])) if to_labels else full
    distances = [(p.w_labels if against == "labels" else p.w_teacher).value for p in profiles]
    until = np.cumsum(milliseconds)
    early = _undominated(distances[:last], prior)
    levels = {-1: prior, **dict(enumerate(distances))}
    ends = {-1: 0.0, **dict(enumerate(until.tolist()))}
    exits = _smallest_area([*early, last], levels, ends, max_exits)
    return Placement(exits, full)


def _undominated(distances: Sequence[float], prior: float) -> list[int]:
    """Layers that are nearer than every shallower one."""
    nearest = np.minimum.accumulate([prior, *distances])
    return [k for k, distance in enumerate(distances) if distance < nearest[k]]


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
