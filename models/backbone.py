"""The backbone: a graph with logits at every exit, and where it may be cut."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from models.preprocessing import TensorSpec

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True)
class Backbone:
    """A graph whose outputs are `exit{k}_logits` for k = 1..K, and where it may be cut.

    model : the ONNX graph; dimension 0 of every input is the batch
    inputs : the graph's inputs, in their order
    carries : K - 1 groups of tensor names; group k crosses the cut behind exit k. A graph input
        that deeper stages need is listed by its own name
    """

    model: onnx.ModelProto
    inputs: tuple[TensorSpec, ...]
    carries: tuple[tuple[str, ...], ...]
