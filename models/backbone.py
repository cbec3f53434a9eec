"""The backbone: a graph with logits at every exit, and where it may be cut."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True)
class Backbone:
    """A graph whose outputs are `exit{k}_logits` for k = 1..K, and where it may be cut.

    model : the ONNX graph; dimension 0 of the input is the batch
    input_name : the graph's one input
    carries : K - 1 groups of tensor names; group k crosses the cut behind exit k
    """

    model: onnx.ModelProto
    input_name: str
    carries: tuple[tuple[str, ...], ...]
