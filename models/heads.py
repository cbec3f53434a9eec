"""The heads' last part, inside the graph: logits -> probabilities -> label set and score.

What is certified offline is what is served online, because both are these nodes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    import onnx

OutputKind = Literal["logits", "probabilities", "labels", "score"]


def output_name(exit_number: int, kind: OutputKind) -> str:
    """Name of a head's tensor in every bundle's graph, e.g. `exit2_score`."""
    return f"exit{exit_number}_{kind}"


@dataclass(frozen=True)
class HeadCalibration:
    """Turns one exit's logits z into its answer.

    probability = sigmoid(scale * z + offset); a label is in the set when its probability reaches
    its threshold.

    scale, offset : float (L,), Platt scaling per label
    thresholds : float (L,), inside (0, 1)
    """

    scale: np.ndarray
    offset: np.ndarray
    thresholds: np.ndarray


def attach_heads(
    model: onnx.ModelProto, calibrations: Sequence[HeadCalibration]
) -> onnx.ModelProto:
    """Append probabilities, label set and score to every `exit{k}_logits` of the graph.

    The score of a row is the smallest margin over its labels: the distance of the probability to
    its threshold, divided by the largest distance possible on that side. It is 0 on the edge of
    another label set and 1 where every label is certain.

    Parameters
    ----------
    model : has outputs `exit{k}_logits` float (batch, L) for k = 1..K
    calibrations : K, in the order of the exits

    Returns
    -------
    A new graph with outputs `exit{k}_logits`, `exit{k}_probabilities` float32 (batch, L),
    `exit{k}_labels` bool (batch, L) and `exit{k}_score` float32 (batch,).
    """
    import onnx

    headed = onnx.ModelProto()
    headed.CopyFrom(model)
    for number, calibration in enumerate(calibrations, start=1):
        _attach_head(headed.graph, number, calibration)
    onnx.checker.check_model(headed)
    return headed


def _attach_head(graph: onnx.GraphProto, number: int, calibration: HeadCalibration) -> None:
    from onnx import TensorProto, helper, numpy_helper

    def constant(name: str, value: np.ndarray) -> str:
        full_name = f"exit{number}_{name}"
        array = np.asarray(value, dtype=np.int64 if name == "axis" else np.float32)
        graph.initializer.append(numpy_helper.from_array(array, full_name))
        return full_name

    def node(operator: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        graph.node.append(
            helper.make_node(operator, inputs, [output], name=f"{output}_{operator}", **attributes)
        )
        return output

    prefix = f"exit{number}_"
    scaled = node(
        "Mul",
        [output_name(number, "logits"), constant("scale", calibration.scale)],
        f"{prefix}scaled",
    )
    shifted = node("Add", [scaled, constant("offset", calibration.offset)], f"{prefix}shifted")
    probabilities = node("Sigmoid", [shifted], output_name(number, "probabilities"))
    thresholds = constant("thresholds", calibration.thresholds)
    labels = node("GreaterOrEqual", [probabilities, thresholds], output_name(number, "labels"))
    room = node(
        "Where",
        [labels, constant("room_above", 1 - calibration.thresholds.astype(np.float32)), thresholds],
        f"{prefix}room",
    )
    distance = node(
        "Abs", [node("Sub", [probabilities, thresholds], f"{prefix}gap")], f"{prefix}distance"
    )
    margin = node("Div", [distance, room], f"{prefix}margin")
    score = node(
        "ReduceMin",
        [margin, constant("axis", np.array([1]))],
        output_name(number, "score"),
        keepdims=0,
    )
    width = len(calibration.thresholds)
    graph.output.extend(
        [
            helper.make_tensor_value_info(probabilities, TensorProto.FLOAT, ["batch", width]),
            helper.make_tensor_value_info(labels, TensorProto.BOOL, ["batch", width]),
            helper.make_tensor_value_info(score, TensorProto.FLOAT, ["batch"]),
        ]
    )
