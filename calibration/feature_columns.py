"""The columns of the feature cache: what one pass of the backbone leaves of every row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from models.graph import declare, extract_graph, graph_inputs
from models.graph_writer import GraphWriter, default_opset
from models.heads import round_feature
from models.pooling import add_pooling, pooled_width

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True)
class Column:
    """One output of the pass.

    tensor : its name in the pass's graph
    dtype : float16 for features, float32 for logits
    width : C of (batch, C)
    """

    tensor: str
    dtype: Literal["float16", "float32"]
    width: int


def add_features(
    model: onnx.ModelProto, samples: Mapping[str, np.ndarray], mask: str | None
) -> tuple[onnx.ModelProto, list[Column]]:
    """Append pooled, rounded features of some tensors to a copy of the graph.

    Parameters
    ----------
    samples : tensor name -> its value for some rows, in depth order; number k gives
        `layer{k}_feature`
    mask : the graph input that says which tokens count

    Returns
    -------
    The graph, still with the outputs it had, and a column per tensor.
    """
    import onnx

    extended = onnx.ModelProto()
    extended.CopyFrom(model)
    opset = default_opset(model)
    columns = []
    for number, (tensor, sample) in enumerate(samples.items(), start=1):
        writer = GraphWriter(extended.graph, f"layer{number}_", opset)
        feature = round_feature(writer, add_pooling(writer, tensor, sample.ndim, mask))
        columns.append(Column(feature, "float16", pooled_width(sample.shape)))
    return extended, columns


def column_graph(model: onnx.ModelProto, columns: Sequence[Column]) -> onnx.ModelProto:
    """What the columns need of the graph, with them as outputs and nothing else."""
    from onnx import TensorProto, helper

    elements = {"float16": TensorProto.FLOAT16, "float32": TensorProto.FLOAT}
    declare(
        model,
        [
            helper.make_tensor_value_info(c.tensor, elements[c.dtype], ["batch", c.width])
            for c in columns
        ],
    )
    return extract_graph(model, graph_inputs(model), [column.tensor for column in columns])
