"""Which tensor of a graph the last exit reads: logits over the labels, or the hidden state."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from models.errors import GraphError

if TYPE_CHECKING:
    import onnx

FLOATS = (1, 10, 11, 16)  # ONNX element types: float32, float16, double, bfloat16
PASSING = {"Cast", "Identity"}
SOFTMAX = {"LogSoftmax", "Softmax"}
LOGITS_NAME = re.compile("logit", re.IGNORECASE)
HIDDEN_NAME = re.compile("hidden|embedding|feature", re.IGNORECASE)


@dataclass(frozen=True)
class GraphOutput:
    """A tensor to read.

    name : of the tensor, an output of the graph or inside it
    has_head : whether it is logits over the labels
    notes : what a user should know of the choice
    """

    name: str
    has_head: bool
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Tensor:
    """rank and width (the last dimension) are None where shape inference does not know them."""

    name: str
    is_float: bool
    rank: int | None
    width: int | None


def choose_output(
    model: onnx.ModelProto, labels: int, output: str | None, has_head: bool | None
) -> GraphOutput:
    """Choose the tensor that the last exit reads.

    The one named `output`; else, among the graph's outputs, float (batch, L), one named like logits
    before others; else a hidden state of rank 3 or 4. Behind a final sigmoid, its logits are read.

    Parameters
    ----------
    model : with the shapes of inner tensors inferred
    labels : L, the labels of the data
    output : name of a tensor
    has_head : whether the tensor is logits over the labels; None: found out from its shape

    Raises
    ------
    GraphError
        When no tensor fits, or the model ends in a softmax.
    """
    graph = _Graph(model)
    if output is not None:
        chosen = graph.named(output)
        is_logits = _judge(chosen, labels, has_head)
    else:
        chosen, is_logits = _find(graph.outputs, labels, has_head)
    if not is_logits:
        return GraphOutput(chosen.name, False)
    return graph.logits_behind(chosen.name, named=output is not None)


def _judge(tensor: _Tensor, labels: int, has_head: bool | None) -> bool:
    """Whether the tensor is logits; GraphError where it can be neither logits nor a feature."""
    unknown = tensor.rank is None or (tensor.rank == 2 and tensor.width is None)
    if not tensor.is_float:
        raise GraphError(f"the output {tensor.name!r} is not a float tensor, expected logits")
    if unknown and has_head is None:
        raise GraphError(
            f"the shape of output {tensor.name!r} is not known, expected (batch, {labels}): say "
            "--head if it is logits over the labels, or --no-head"
        )
    if unknown and has_head is not None:
        return has_head
    if has_head is not False and (tensor.rank, tensor.width) == (2, labels):
        return True
    if not has_head and (tensor.rank in (3, 4) or (has_head is False and tensor.rank == 2)):
        return False
    raise GraphError(_wrong_width(tensor, labels))


def _find(outputs: list[_Tensor], labels: int, has_head: bool | None) -> tuple[_Tensor, bool]:
    """The output to read, and whether it is logits."""
    floats = [tensor for tensor in outputs if tensor.is_float]
    if not floats:
        raise GraphError(
            f"found no float tensor among the model's outputs {[t.name for t in outputs]}, "
            f"expected logits (batch, {labels}) or a hidden state"
        )
    logits = _preferred(floats, LOGITS_NAME)
    if has_head is not False:
        for tensor in logits:
            if (tensor.rank, tensor.width) == (2, labels):
                return tensor, True
    hidden = _preferred([tensor for tensor in floats if tensor.rank in (3, 4)], HIDDEN_NAME)
    misfits = [t for t in logits if t.rank == 2 and LOGITS_NAME.search(t.name)]
    if has_head is None and misfits:
        raise GraphError(_wrong_width(misfits[0], labels))
    chosen = [*hidden, *logits][0] if not has_head else logits[0]
    return chosen, _judge(chosen, labels, has_head)


def _preferred(tensors: list[_Tensor], pattern: re.Pattern[str]) -> list[_Tensor]:
    """Those whose name matches first; otherwise in the order of the graph's outputs."""
    return sorted(tensors, key=lambda tensor: not pattern.search(tensor.name))


def _wrong_width(tensor: _Tensor, labels: int) -> str:
    if tensor.rank != 2:
        return (
            f"the output {tensor.name!r} has rank {tensor.rank}, expected logits (batch, {labels}) "
            "or a hidden state of rank 3 or 4: name another tensor with --output"
        )
    return (
        f"the model gives {tensor.width} numbers per row (output {tensor.name!r}), the data has "
        f"{labels} labels: calibrate with the labels that the model was trained on, name another "
        "tensor with --output, or say --no-head to train heads on the model's features"
    )


class _Graph:
    """Looks up tensors and the nodes that make them."""

    def __init__(self, model: onnx.ModelProto) -> None:
        graph = model.graph
        self._makers = {name: node for node in graph.node for name in node.output if name}
        self._types = {v.name: v for v in [*graph.value_info, *graph.input, *graph.output]}
        self.outputs = [self._tensor(value.name) for value in graph.output]

    def named(self, name: str) -> _Tensor:
        if name not in self._makers:
            raise GraphError(
                f"the model makes no tensor {name!r}; its outputs are "
                f"{', '.join(tensor.name for tensor in self.outputs)}"
            )
        return self._tensor(name)

    def logits_behind(self, name: str, named: bool) -> GraphOutput:
        """The input of a final sigmoid; the tensor itself where there is none."""
        node = self._activation(name)
        if node is not None and node.op_type == "Sigmoid":
            return GraphOutput(node.input[0], True, (f"read before the sigmoid that gives {name}",))
        if node is not None:
            raise GraphError(
                f"the model ends in a {node.op_type} (output {name!r}), expected logits or a "
                "sigmoid: a softmax makes the labels compete, so that a row cannot have several; "
                f"train with a sigmoid per label, or say --output {node.input[0]} to read the "
                "logits before it all the same"
            )
        if named and self._feeds_final_softmax(name):
            note = f"{name} was trained for a softmax, one label per row; read as one logit each"
            return GraphOutput(name, True, (note,))
        return GraphOutput(name, True)

    def _activation(self, name: str) -> onnx.NodeProto | None:
        """The sigmoid or softmax that makes a tensor, casts and identities aside."""
        node = self._makers.get(name)
        while node is not None and node.op_type in PASSING:
            node = self._makers.get(node.input[0])
        return node if node is not None and node.op_type in {"Sigmoid", *SOFTMAX} else None

    def _feeds_final_softmax(self, name: str) -> bool:
        ends = [self._activation(tensor.name) for tensor in self.outputs]
        return any(
            end is not None and end.op_type in SOFTMAX and end.input[0] == name for end in ends
        )

    def _tensor(self, name: str) -> _Tensor:
        if name not in self._types or not self._types[name].type.HasField("tensor_type"):
            known = name in self._types and self._types[name].type.WhichOneof("value") is not None
            return _Tensor(name, not known, None, None)
        kind = self._types[name].type.tensor_type
        is_float = kind.elem_type in FLOATS
        if not kind.HasField("shape"):
            return _Tensor(name, is_float, None, None)
        dims = kind.shape.dim
        width = dims[-1].dim_value if dims and dims[-1].dim_value > 0 else None
        return _Tensor(name, is_float, len(dims), width)
