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
from models.heads import HeadCalibration, add_logits, attach_heads
from models.runtime import Answers, Carry, StageRuntime
from models.scores import exit_tensor, score_state

if TYPE_CHECKING:
    import onnx

TOLERANCE = 1e-2  # of probabilities: float16 rounding of a feature may fall to the other side


def assemble(
    layered: LayeredModel, layers: Sequence[Layer], heads: Sequence[LayerHead]
) -> onnx.ModelProto:
    """The graph with an exit at each of `layers`, and nothing that no exit needs."""
    import onnx

    model = onnx.ModelProto()
    model.CopyFrom(layered.model)
    opset = default_opset(model)
    for number, (layer, head) in enumerate(zip(layers, heads, strict=True), start=1):
        writer = GraphWriter(model.graph, exit_tensor(number, ""), opset)
        if head.layers is None:
            writer.node("Identity", [layer.column.tensor], "logits")
        else:
            add_logits(writer, layer.column.tensor, head.layers)
    headed = attach_heads(model, [head.calibration for head in heads])
    outputs = [value.name for value in headed.graph.output]
    return extract_graph(headed, graph_inputs(headed), outputs)


def carries(layers: Sequence[Layer], heads: Sequence[LayerHead]) -> list[tuple[str, ...]]:
    """Tensors that cross each cut between the exits at `layers`: K - 1 groups.

    The carry of the layer, and what the next exit's head reads of the exit there.
    """
    behind = zip(layers[:-1], heads[1:], strict=True)
    return [
        (*layer.carry, *score_state(number, head.calibration.score))
        for number, (layer, head) in enumerate(behind, start=1)
    ]


def check_served(
    runtime: StageRuntime,
    rows: Carry,
    expected: Sequence[Answers],
    heads: Sequence[LayerHead] = (),
) -> None:
    """Make sure that the stages answer what was certified from the cache.

    Parameters
    ----------
    rows : the graph's inputs, (b, ...) each
    expected : K, one per exit, over the same rows
    heads : K; with them label sets are compared too, but for labels so near to their threshold
        that rounding may decide

    Raises
    ------
    GraphError
        When they do not.
    """
    doubtful = np.zeros(expected[0].labels.shape, bool)
    for k, (served, cached) in enumerate(zip(runtime.all_exits(rows), expected, strict=True)):
        worst = float(np.abs(served.probabilities - cached.probabilities).max())
        differ = np.zeros_like(doubtful)
        if heads:
            doubtful = _doubtful(cached.probabilities, heads[k].calibration, doubtful)
            differ = (served.labels != cached.labels) & ~doubtful
        if worst > TOLERANCE or differ.any():
            raise GraphError(
                f"exit {k + 1} of the finished model answers unlike the cached features did "
                f"(probabilities differ by up to {worst:.2g}, {int(differ.sum())} labels that are "
                "not near their threshold): the model is not deterministic, or the cache was "
                "altered; calibrate again with another --cache"
            )


def _doubtful(
    probabilities: np.ndarray, calibration: HeadCalibration, before: np.ndarray
) -> np.ndarray:
    """Labels that rounding may decide: bool (b, L); a frozen one may have been decided before."""
    distance = np.abs(probabilities - calibration.thresholds)
    near: np.ndarray = distance <= TOLERANCE
    if calibration.score.freeze and calibration.score.widths is not None:
        near |= (np.abs(distance - calibration.score.widths) <= TOLERANCE) | before
    return near
