"""The candidate layers of a model: where an exit may stand, and what the pass keeps of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np

from calibration.feature_columns import Column, add_features
from calibration.row_check import check_rows
from calibration.source import Source
from models.backbone import Backbone
from models.cuts import Cut, find_cuts
from models.encoding import MASK
from models.errors import GraphError
from models.graph import graph_inputs, rename_tensor, split_graph
from models.graph_writer import GraphWriter, default_opset
from models.heads import FLOAT, output_name
from models.preprocessing import TensorSpec
from models.runtime import Carry, open_session

if TYPE_CHECKING:
    import onnx

SMALLEST_STAGE = 0.02  # of the whole model's time; candidates closer than this are merged
TIMED_ROWS = 8
ROUNDS = 7


@dataclass(frozen=True)
class Layer:
    """One candidate.

    name : as the model's author calls it
    carry : tensors that cross the cut behind it; empty at full depth
    column : what the pass keeps: a float16 feature, for a head to be trained, or float32 logits
    """

    name: str
    carry: tuple[str, ...]
    column: Column

    @property
    def has_logits(self) -> bool:
        """Whether the layer has a head of its own."""
        return self.column.dtype == "float32"


@dataclass(frozen=True)
class LayeredModel:
    """A graph that gives every layer's column.

    layers : in depth order; the last is full depth
    milliseconds : per layer, of the stage that ends there, without a head
    """

    model: onnx.ModelProto
    inputs: tuple[TensorSpec, ...]
    layers: tuple[Layer, ...]
    milliseconds: tuple[float, ...]


def layers_of_source(source: Source, rows: Carry, labels: int, max_carry: int = 3) -> LayeredModel:
    """Find the candidate layers of somebody's model.

    Parameters
    ----------
    rows : the graph's inputs for a few real rows
    labels : L, which the model's own logits must have

    Raises
    ------
    GraphError
        When the model has no usable cut, mixes rows, or gives another number of logits.
    """
    mask = MASK if MASK in graph_inputs(source.model) else None
    cuts = find_cuts(source.model, source.output, mask, max_carry)
    cuts, samples = check_rows(source.model, cuts, source.output, rows)
    cuts = [cut for cut in cuts if samples[cut.feature].ndim in (2, 3, 4)]
    cuts = _merge_close(source.model, cuts, source.output, rows)
    if not cuts:
        raise GraphError(
            "no usable cut: no layer with a computation of its own keeps the rows in dimension 0 "
            "of a tensor (batch, C), (batch, tokens, C) or (batch, C, H, W)"
        )
    tensors = [cut.feature for cut in cuts] + ([] if source.has_head else [source.output])
    model, columns = add_features(source.model, {name: samples[name] for name in tensors}, mask)
    if source.has_head:
        _check_width(source.output, samples[source.output].shape, labels)
        columns.append(logits_column(model, source.output, labels))
    names = [*(cut.name for cut in cuts), "full depth"]
    carries = [cut.carry for cut in cuts]
    layers = map(Layer, names, [*carries, ()], columns)
    milliseconds = _stage_milliseconds(model, carries, source.output, rows)
    return LayeredModel(model, source.inputs, tuple(layers), tuple(milliseconds))


def layers_of_backbone(backbone: Backbone, rows: Carry, labels: int) -> LayeredModel:
    """The exits of a network of ours, each with logits of its own."""
    import onnx

    model = onnx.ModelProto()
    model.CopyFrom(backbone.model)
    layers = []
    for number, carry in enumerate([*backbone.carries, ()], start=1):
        name = f"layer{number}_logits"
        rename_tensor(model, output_name(number, "logits"), name)
        layers.append(Layer(f"stage {number}", carry, Column(name, "float32", labels)))
    milliseconds = _stage_milliseconds(model, backbone.carries, layers[-1].column.tensor, rows)
    return LayeredModel(model, backbone.inputs, tuple(layers), tuple(milliseconds))


def logits_column(model: onnx.ModelProto, output: str, labels: int) -> Column:
    """Append the model's own logits as a float32 column."""
    writer = GraphWriter(model.graph, "full_depth_", default_opset(model))
    return Column(writer.node("Cast", [output], "logits", to=FLOAT), "float32", labels)


def _check_width(output: str, shape: tuple[int, ...], labels: int) -> None:
    if shape[1:] != (labels,):
        raise GraphError(
            f"the model's output {output!r} gives {shape[1:]} numbers per row, expected "
            f"({labels},), one logit per label of the data; name another with --output, or train "
            "a head for the last layer too with --no-head"
        )


def _merge_close(
    model: onnx.ModelProto, cuts: Sequence[Cut], output: str, rows: Carry
) -> list[Cut]:
    """Leave out candidates with no computation to speak of between them and the next."""
    milliseconds = _stage_milliseconds(model, [cut.carry for cut in cuts], output, rows)
    smallest = SMALLEST_STAGE * sum(milliseconds)
    kept: list[Cut] = []
    behind = milliseconds[-1]  # time from this candidate to the next one that is kept
    for cut, stage in zip(reversed(cuts), reversed(milliseconds[:-1]), strict=True):
        if behind < smallest:
            behind += stage
            continue
        kept.append(cut)
        behind = stage
    return kept[::-1]


def _stage_milliseconds(
    model: onnx.ModelProto, carries: Sequence[Sequence[str]], output: str, rows: Carry
) -> list[float]:
    """Median time of every stage between the cuts, without heads."""
    stages = split_graph(model, carries, [*([] for _ in carries), [output]])
    sessions = [open_session(stage.SerializeToString()) for stage in stages]
    feeds = dict(zip(graph_inputs(model), (tensor[:TIMED_ROWS] for tensor in rows), strict=True))
    times = np.zeros((ROUNDS, len(sessions)))
    for number in range(ROUNDS):
        made = dict(feeds)
        for stage, session in enumerate(sessions):
            inputs = {value.name: made[value.name] for value in session.get_inputs()}
            names = [value.name for value in session.get_outputs()]
            start = perf_counter()
            outputs = session.run(names, inputs)
            times[number, stage] = (perf_counter() - start) * 1000
            made.update(zip(names, outputs, strict=True))
    return [float(time) for time in np.median(times, axis=0)]
