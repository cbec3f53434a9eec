"""The heads, inside the graph: feature -> logits -> probabilities -> label set and score.

What is certified offline is what is served online, because both are these nodes: calibration runs
them on cached features, the service behind the stages that compute the features. Features are
rounded to float16 in both places, so that the cache holds exactly what a served head reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

import numpy as np

from models.graph_writer import GraphWriter, default_opset
from models.scores import ScoreRule, add_score, exit_tensor

if TYPE_CHECKING:
    import onnx

OutputKind = Literal["logits", "probabilities", "labels", "score"]

OPSET = 18  # of the head on its own
FLOAT, FLOAT16 = 1, 10  # ONNX element types
FLOAT16_MAX = 65504.0


def output_name(exit_number: int, kind: OutputKind) -> str:
    """Name of a head's tensor in every bundle's graph, e.g. `exit2_score`."""
    return exit_tensor(exit_number, kind)


@dataclass(frozen=True)
class HeadCalibration:
    """Turns one exit's logits z into its answer.

    probability = sigmoid(scale * z + offset); a label is in the set when its probability reaches
    its threshold, or when it was frozen in it.

    scale, offset : float (L,), Platt scaling per label
    thresholds : float (L,), inside (0, 1)
    score : how the row's score is computed, and whether labels freeze
    """

    scale: np.ndarray
    offset: np.ndarray
    thresholds: np.ndarray
    score: ScoreRule = field(default_factory=ScoreRule)


@dataclass(frozen=True)
class HeadLayers:
    """A trained head: linear layers with ReLU between them, from a feature to logits.

    weights : one or two matrices, float32 (in, out); the last has L columns
    biases : as many vectors, float32 (out,)
    """

    weights: tuple[np.ndarray, ...]
    biases: tuple[np.ndarray, ...]


def attach_heads(
    model: onnx.ModelProto, calibrations: Sequence[HeadCalibration]
) -> onnx.ModelProto:
    """Append probabilities, label set and score to every `exit{k}_logits` of the graph.

    What a score is, and how labels freeze: see `models.scores`. A head whose rule looks back reads
    tensors of the exit before it; `models.scores.score_state` names those that must cross the cut.

    Parameters
    ----------
    model : has tensors `exit{k}_logits` float32 (batch, L) for k = 1..K
    calibrations : K, in the order of the exits

    Returns
    -------
    A new graph with outputs `exit{k}_logits`, `exit{k}_probabilities` float32 (batch, L),
    `exit{k}_labels` bool (batch, L) and `exit{k}_score` float32 (batch,), and no other.

    Raises
    ------
    ValueError
        When labels freeze at an exit but not at the one before it, or a gate does not fit its exit.
    """
    import onnx
    from onnx import TensorProto, helper

    headed = onnx.ModelProto()
    headed.CopyFrom(model)
    del headed.graph.output[:]
    opset = default_opset(model)
    _check_freezing(calibrations)
    for number, calibration in enumerate(calibrations, start=1):
        _attach_head(GraphWriter(headed.graph, exit_tensor(number, ""), opset), number, calibration)
        wide: list[str | int | None] = ["batch", len(calibration.thresholds)]
        outputs: dict[OutputKind, tuple[int, list[str | int | None]]] = {
            "logits": (TensorProto.FLOAT, wide),
            "probabilities": (TensorProto.FLOAT, wide),
            "labels": (TensorProto.BOOL, wide),
            "score": (TensorProto.FLOAT, ["batch"]),
        }
        headed.graph.output.extend(
            helper.make_tensor_value_info(output_name(number, kind), element, shape)
            for kind, (element, shape) in outputs.items()
        )
    known = {output.name for output in headed.graph.output}
    inner = [value for value in headed.graph.value_info if value.name not in known]
    del headed.graph.value_info[:]
    headed.graph.value_info.extend(inner)
    onnx.checker.check_model(headed)
    return headed


def round_feature(writer: GraphWriter, pooled: str) -> str:
    """Round a pooled feature to float16, as the feature cache holds it; larger values saturate."""
    bounds = [
        writer.constant(name, np.array(value, np.float32))
        for name, value in (("float16_min", -FLOAT16_MAX), ("float16_max", FLOAT16_MAX))
    ]
    saturated = writer.node("Clip", [pooled, *bounds], "saturated")
    return writer.node("Cast", [saturated], "feature", to=FLOAT16)


def add_logits(writer: GraphWriter, feature: str, layers: HeadLayers) -> str:
    """Append a trained head to a float16 feature (batch, C); returns its logits."""
    values = writer.node("Cast", [feature], "values32", to=FLOAT)
    last = len(layers.weights) - 1
    for index, (weight, bias) in enumerate(zip(layers.weights, layers.biases, strict=True)):
        weight_name = writer.constant(f"weight{index}", weight.astype(np.float32))
        bias_name = writer.constant(f"bias{index}", bias.astype(np.float32))
        name = "logits" if index == last else f"hidden{index}"
        values = writer.node("Gemm", [values, weight_name, bias_name], name)
        if index < last:
            values = writer.node("Relu", [values], f"active{index}")
    return values


def head_model(width: int, layers: HeadLayers | None) -> onnx.ModelProto:
    """A head on its own: `feature` -> `exit1_logits`.

    Parameters
    ----------
    width : columns of the feature: float16 (batch, width), or the logits themselves as float32
    layers : None where the feature is the logits already
    """
    return _heads_alone(["feature"], [width], [layers])


def chain_model(widths: Sequence[int], layers: Sequence[HeadLayers | None]) -> onnx.ModelProto:
    """K heads on their own: `feature{k}` -> `exit{k}_logits` for k = 1..K, each as `head_model`."""
    return _heads_alone([f"feature{k + 1}" for k in range(len(widths))], widths, layers)


def _heads_alone(
    features: Sequence[str], widths: Sequence[int], layers: Sequence[HeadLayers | None]
) -> onnx.ModelProto:
    from onnx import TensorProto, helper

    graph = helper.make_graph([], "head", [], [])
    for number, (feature, width, head) in enumerate(
        zip(features, widths, layers, strict=True), start=1
    ):
        writer = GraphWriter(graph, exit_tensor(number, ""), OPSET)
        if head is None:
            writer.node("Identity", [feature], "logits")
        else:
            add_logits(writer, feature, head)
        element = TensorProto.FLOAT if head is None else TensorProto.FLOAT16
        labels = width if head is None else len(head.biases[-1])
        graph.input.append(helper.make_tensor_value_info(feature, element, ["batch", width]))
        logits = output_name(number, "logits")
        graph.output.append(
            helper.make_tensor_value_info(logits, TensorProto.FLOAT, ["batch", labels])
        )
    opset = helper.make_opsetid("", OPSET)
    return helper.make_model(graph, opset_imports=[opset], ir_version=10)


def _check_freezing(calibrations: Sequence[HeadCalibration]) -> None:
    freezes = [calibration.score.freeze for calibration in calibrations]
    for number, (before, here) in enumerate(pairwise(freezes), start=2):
        if here and not before:
            raise ValueError(
                f"labels freeze at exit {number} but not at exit {number - 1}, which would have to "
                "say which labels were clear: let both freeze labels, or neither"
            )


def _attach_head(writer: GraphWriter, number: int, calibration: HeadCalibration) -> None:
    def constant(name: str, value: np.ndarray) -> str:
        return writer.constant(name, value.astype(np.float32))

    logits = output_name(number, "logits")
    scaled = writer.node("Mul", [logits, constant("scale", calibration.scale)], "scaled")
    shifted = writer.node("Add", [scaled, constant("offset", calibration.offset)], "shifted")
    writer.node("Sigmoid", [shifted], "probabilities")
    add_score(writer, number, calibration, calibration.score)
