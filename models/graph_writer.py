"""Appends nodes to an ONNX graph, for every opset from 11 on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import onnx


class GraphWriter:
    """Appends nodes and constants to a graph under names with one prefix.

    Parameters
    ----------
    graph : is changed in place
    prefix : goes before every name
    opset : of the default domain
    """

    def __init__(self, graph: onnx.GraphProto, prefix: str, opset: int) -> None:
        self.graph = graph
        self.opset = opset
        self._prefix = prefix

    def constant(self, name: str, value: np.ndarray) -> str:
        """Add an initializer; returns its full name."""
        from onnx import numpy_helper

        full_name = f"{self._prefix}{name}"
        tensor = numpy_helper.from_array(np.asarray(value, order="C"), full_name)
        self.graph.initializer.append(tensor)
        return full_name

    def node(self, operator: str, inputs: Sequence[str], name: str, **attributes: object) -> str:
        """Add a node with one output, called prefix + name; returns its full name."""
        from onnx import helper

        output = f"{self._prefix}{name}"
        node = helper.make_node(operator, list(inputs), [output], f"{output}_{operator}")
        node.attribute.extend(helper.make_attribute(k, v) for k, v in attributes.items())
        self.graph.node.append(node)
        return output

    def reduce(self, operator: str, tensor: str, axis: int, name: str, keep: bool = False) -> str:
        """Reduce one axis, away or to 1; opset 13 (ReduceSum), 18 (others) made `axes` an input."""
        if self.opset >= (13 if operator == "ReduceSum" else 18):
            axes = self.constant(f"{name}_axes", np.array([axis], np.int64))
            return self.node(operator, [tensor, axes], name, keepdims=int(keep))
        return self.node(operator, [tensor], name, axes=[axis], keepdims=int(keep))

    def smallest(self, tensor: str, count: int, name: str) -> str:
        """Keep the `count` smallest values of each row, ascending: (batch, C) -> (batch, count)."""
        from onnx import helper

        inputs = [tensor, self.constant(f"{name}_count", np.array([count], np.int64))]
        output = f"{self._prefix}{name}"
        outputs = [output, f"{output}_places"]
        self.graph.node.append(
            helper.make_node("TopK", inputs, outputs, f"{output}_TopK", axis=1, largest=0, sorted=1)
        )
        return output

    def unsqueeze(self, tensor: str, axis: int, name: str) -> str:
        """Insert an axis; opset 13 moved the axes from an attribute to an input."""
        if self.opset >= 13:
            axes = self.constant(f"{name}_axes", np.array([axis], np.int64))
            return self.node("Unsqueeze", [tensor, axes], name)
        return self.node("Unsqueeze", [tensor], name, axes=[axis])


def default_opset(model: onnx.ModelProto) -> int:
    """Opset of the default domain."""
    versions = [entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")]
    return int(versions[0])
