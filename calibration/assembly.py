"""Puts the chosen heads into the graph: the multi-head model of the bundle."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from calibration.layer_answers import LayerHead
from calibration.layers import Layer, LayeredModel
from models.errors import GraphError
from models.graph import extract_graph, graph_inputs
from models.graph_writer import GraphWriter, default_opset
from models.heads import add_logits, attach_heads
from models.runtime import Answers, Carry, StageRuntime

if TYPE_CHECKING:
    import onnx

TOLERANCE = 1e-2  # of scores: float16 rounding of a feature may fall to the other side


def assemble(
    layered: LayeredModel, layers: Sequence[Layer], heads: Sequence[LayerHead]
) -> onnx.ModelProto:
    """The graph with an exit at each of `layers`, and nothing that no exit needs."""
    import onnx

    model = onnx.ModelProto()
    model.CopyFrom(layered.model)
    opset = default_opset(model)
    for number, (layer, head) in enumerate(zip(layers, heads, strict=True), start=1):
        writer = GraphWriter(model.graph, f"exit{number}_", opset)
        if head.layers is None:
            writer.node("Identity", [layer.column.tensor], "logits")
        else:
            add_logits(writer, layer.column.tensor, head.layers)
    headed = attach_heads(model, [head.calibration for head in heads])
    outputs = [value.name for value in headed.graph.output]
    return extract_graph(headed, graph_inputs(headed), outputs)


def check_served(runtime: StageRuntime, rows: Carry, expected: Sequence[Answers]) -> None:
    """Make sure that the stages answer what was certified from the cache.

    Parameters
    ----------
    rows : the graph's inputs, (b, ...) each
    expected : K, one per exit, over the same rows
    """
    for number, (served, cached) in enumerate(
        zip(runtime.all_exits(rows), expected, strict=True), start=1
    ):
        worst = float(np.abs(served.probabilities - cached.probabilities).max())
        clear = np.minimum(served.score, cached.score) > TOLERANCE
        if worst > TOLERANCE or (served.labels[clear] != cached.labels[clear]).any():
            raise GraphError(
                f"exit {number} of the finished model answers unlike the cached features did "
                f"(probabilities differ by up to {worst:.2g}): the model is not deterministic, or "
                "the cache was altered; calibrate again with another --cache"
            )
