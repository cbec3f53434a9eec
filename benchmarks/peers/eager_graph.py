"""A graph run by torch's operators one after another, as a network written in torch is.

The bundle's own graph: the same network, weights, heads and scores as everywhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from torch import Tensor
from torch.nn import functional as F

TYPES = {
    onnx.TensorProto.FLOAT: torch.float32,
    onnx.TensorProto.FLOAT16: torch.float16,
    onnx.TensorProto.INT64: torch.int64,
    onnx.TensorProto.BOOL: torch.bool,
}


class EagerGraph:
    """Runs one graph.

    Parameters
    ----------
    model : of the operators below, opset 18 or newer
    device : torch's name of where it runs

    Raises
    ------
    ValueError
        When the graph has an operator that is not there.
    """

    def __init__(self, model: onnx.ModelProto, device: str = "cpu") -> None:
        graph = model.graph
        missing = {node.op_type for node in graph.node} - set(OPERATORS)
        if missing:
            raise ValueError(
                f"found the operators {sorted(missing)}, expected some of {sorted(OPERATORS)}"
            )
        self.inputs = [value.name for value in graph.input]
        self.outputs = [value.name for value in graph.output]
        self._constants = {
            tensor.name: torch.from_numpy(np.array(numpy_helper.to_array(tensor))).to(device)
            for tensor in graph.initializer
        }
        self._nodes = [
            (
                OPERATORS[node.op_type],
                [name or None for name in node.input],
                list(node.output),
                {a.name: helper.get_attribute_value(a) for a in node.attribute},
            )
            for node in graph.node
        ]

    def __call__(self, feeds: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """All outputs, by their names."""
        values = {**self._constants, **feeds}
        for run, inputs, outputs, attributes in self._nodes:
            made = run([None if name is None else values[name] for name in inputs], attributes)
            values.update(zip(outputs, made if isinstance(made, tuple) else (made,), strict=True))
        return {name: values[name] for name in self.outputs}


Inputs = Sequence[Any]
Attributes = Mapping[str, Any]


def _axes(x: Inputs, a: Attributes) -> list[int]:
    given = x[1].tolist() if len(x) > 1 and x[1] is not None else a.get("axes")
    return list(given) if given else list(range(x[0].dim()))


def _reduced(reduce: Callable[..., Tensor]) -> Callable[[Inputs, Attributes], Tensor]:
    def run(x: Inputs, a: Attributes) -> Tensor:
        return reduce(x[0], dim=_axes(x, a), keepdim=bool(a.get("keepdims", 1)))

    return run


def _gather(x: Inputs, a: Attributes) -> Tensor:
    data, places = x
    axis = a.get("axis", 0) % data.dim()
    if axis == 0 and places.dim():
        return F.embedding(places, data) if data.dim() == 2 else data[places]
    if not places.dim():
        return data.select(axis, int(places))
    shape = (*data.shape[:axis], *places.shape, *data.shape[axis + 1 :])
    return data.index_select(axis, places.reshape(-1)).reshape(shape)


def _gemm(x: Inputs, a: Attributes) -> Tensor:
    left = x[0].t() if a.get("transA") else x[0]
    right = x[1].t() if a.get("transB") else x[1]
    alpha, beta = a.get("alpha", 1.0), a.get("beta", 1.0)
    if len(x) < 3:
        return alpha * (left @ right)
    return torch.addmm(x[2], left, right, alpha=alpha, beta=beta)


def _convolution(x: Inputs, a: Attributes) -> Tensor:
    pads = a.get("pads", [0, 0, 0, 0])
    if pads[:2] != pads[2:]:
        raise ValueError(f"found the pads {pads}, expected the same on both sides")
    return F.conv2d(
        *x, stride=a["strides"], padding=pads[:2], dilation=a["dilations"], groups=a["group"]
    )


def _layer_norm(x: Inputs, a: Attributes) -> Tensor:
    shape = x[0].shape[a.get("axis", -1) :]
    return F.layer_norm(x[0], shape, x[1], x[2] if len(x) > 2 else None, a.get("epsilon", 1e-5))


def _reshape(x: Inputs, a: Attributes) -> Tensor:
    wanted = x[1].tolist()
    return x[0].reshape([x[0].shape[k] if size == 0 else size for k, size in enumerate(wanted)])


def _slice(x: Inputs, a: Attributes) -> Tensor:
    data = x[0]
    starts, ends = x[1].tolist(), x[2].tolist()
    axes = x[3].tolist() if len(x) > 3 else list(range(len(starts)))
    steps = x[4].tolist() if len(x) > 4 else [1] * len(starts)
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        chosen = [slice(None)] * data.dim()
        chosen[axis] = slice(start, end, step)
        data = data[tuple(chosen)]
    return data


def _shape(x: Inputs, a: Attributes) -> Tensor:
    return torch.tensor(list(x[0].shape)[a.get("start", 0) : a.get("end")], dtype=torch.int64)


def _top(x: Inputs, a: Attributes) -> tuple[Tensor, Tensor]:
    count, axis = int(x[1]), a.get("axis", -1)
    values, places = x[0].topk(count, dim=axis, largest=bool(a.get("largest", 1)))
    return values, places


def _unsqueeze(x: Inputs, a: Attributes) -> Tensor:
    data = x[0]
    for axis in sorted(_axes(x, a)):
        data = data.unsqueeze(axis)
    return data


def _clip(x: Inputs, a: Attributes) -> Tensor:
    return x[0].clamp(*x[1:])


OPERATORS: dict[str, Callable[[Inputs, Attributes], Any]] = {
    "Abs": lambda x, a: x[0].abs(),
    "Add": lambda x, a: x[0] + x[1],
    "Cast": lambda x, a: x[0].to(TYPES[a["to"]]),
    "Clip": _clip,
    "Concat": lambda x, a: torch.cat(list(x), dim=a["axis"]),
    "Conv": _convolution,
    "Div": lambda x, a: x[0] / x[1],
    "Exp": lambda x, a: x[0].exp(),
    "Gather": _gather,
    "Gelu": lambda x, a: F.gelu(x[0], approximate=a.get("approximate", b"none").decode()),
    "Gemm": _gemm,
    "Greater": lambda x, a: x[0] > x[1],
    "GreaterOrEqual": lambda x, a: x[0] >= x[1],
    "Identity": lambda x, a: x[0],
    "LayerNormalization": _layer_norm,
    "Less": lambda x, a: x[0] < x[1],
    "Log": lambda x, a: x[0].log(),
    "MatMul": lambda x, a: x[0] @ x[1],
    "Max": lambda x, a: torch.maximum(x[0], x[1]),
    "Min": lambda x, a: torch.minimum(x[0], x[1]),
    "Mul": lambda x, a: x[0] * x[1],
    "Neg": lambda x, a: -x[0],
    "Not": lambda x, a: ~x[0],
    "ReduceMax": _reduced(torch.amax),
    "ReduceMean": _reduced(torch.mean),
    "ReduceMin": _reduced(torch.amin),
    "ReduceSum": _reduced(torch.sum),
    "Relu": lambda x, a: x[0].relu(),
    "Reshape": _reshape,
    "Shape": _shape,
    "Sigmoid": lambda x, a: x[0].sigmoid(),
    "Slice": _slice,
    "Softmax": lambda x, a: x[0].softmax(a.get("axis", -1)),
    "Sqrt": lambda x, a: x[0].sqrt(),
    "Sub": lambda x, a: x[0] - x[1],
    "Tanh": lambda x, a: x[0].tanh(),
    "TopK": _top,
    "Transpose": lambda x, a: x[0].permute(*a["perm"]),
    "Unsqueeze": _unsqueeze,
    "Where": lambda x, a: torch.where(x[0], x[1], x[2]),
}
