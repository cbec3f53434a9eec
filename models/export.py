"""A multi-exit torch network becomes one multi-head ONNX graph with known carries."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from models.backbone import Backbone
from models.heads import output_name

if TYPE_CHECKING:
    from collections.abc import Iterator

    import onnx

    from models.multi_exit import Carry, MultiExitNetwork
    from models.preprocessing import TensorSpec

Place = tuple[int, int]
"""Which tensor of which carry, both from 0."""


def export_network(
    network: MultiExitNetwork, example: tuple[Tensor, ...], inputs: Sequence[TensorSpec]
) -> Backbone:
    """Export `network` in evaluation mode with a dynamic batch.

    The tensor that stage k makes is called `carry{k}` (`carry{k}_1` and so on where there are
    several); an input that deeper stages read crosses the cut under its own name.

    Parameters
    ----------
    network : the trained network
    example : one tensor per input; every dynamic dimension larger than 1, so that the exporter
        cannot take it for a constant
    inputs : names and row shapes; a dimension that is None there is dynamic too
    """
    network.eval()
    with torch.no_grad():
        _, carries = network(*example)
    names = _carry_names(carries, example)
    logits = [output_name(number, "logits") for number in range(1, network.depth + 1)]
    with quiet_exporter():
        program = torch.onnx.export(
            _FlatOutputs(network, list(names)),
            example,
            input_names=[spec.name for spec in inputs],
            output_names=[*logits, *names.values()],
            dynamic_shapes=(tuple(_dynamic_axes(inputs)),),
            dynamo=True,
            verbose=False,
        )
    if program is None:
        raise RuntimeError("torch.onnx.export(dynamo=True) returned no program")
    model = _hide_carries(program.model_proto, logits)
    carried = [tensor for carry in carries for tensor in carry]
    pairs = zip(inputs, example, strict=True)
    _read_sizes_from(model, [spec.name for spec, tensor in pairs if _is_one_of(tensor, carried)])
    return Backbone(model, tuple(inputs), _close_cuts(model, names, logits))


class _FlatOutputs(nn.Module):
    """All logits, then the carried tensors that are to get a name."""

    def __init__(self, network: MultiExitNetwork, places: Sequence[Place]) -> None:
        super().__init__()
        self.network = network
        self._places = places

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        logits, carries = self.network(*inputs)
        return (*logits, *(carries[cut][index] for cut, index in self._places))


def _carry_names(carries: Sequence[Carry], example: Carry) -> dict[Place, str]:
    """Names of the tensors that the stages make; inputs that are handed on have one already."""
    names = {}
    for cut, carry in enumerate(carries):
        made = [index for index, tensor in enumerate(carry) if not _is_one_of(tensor, example)]
        for number, index in enumerate(made, start=1):
            names[cut, index] = f"carry{cut + 1}" + (f"_{number}" if len(made) > 1 else "")
    return names


def _is_one_of(tensor: Tensor, others: Iterable[Tensor]) -> bool:
    return any(tensor is other for other in others)


def _dynamic_axes(inputs: Sequence[TensorSpec]) -> Iterator[dict[int, torch.export.Dim]]:
    """Per input: the batch, and the axes whose size varies; one name per axis, `tokens` for 1."""
    varying = {
        axis for spec in inputs for axis, size in enumerate(spec.row_shape, start=1) if size is None
    }
    dims = {axis: torch.export.Dim("tokens" if axis == 1 else f"size{axis}") for axis in varying}
    batch = torch.export.Dim("batch")
    for spec in inputs:
        sizes = enumerate(spec.row_shape, start=1)
        yield {0: batch, **{axis: dims[axis] for axis, size in sizes if size is None}}


def _hide_carries(model: onnx.ModelProto, logits: Sequence[str]) -> onnx.ModelProto:
    """The carries were outputs only to get their names: keep them as inner tensors."""
    carries = [value for value in model.graph.output if value.name not in logits]
    model.graph.value_info.extend(carries)
    for value in carries:
        model.graph.output.remove(value)
    return model


def _read_sizes_from(model: onnx.ModelProto, handed_on: Iterable[str]) -> None:
    """The batch's sizes are read from inputs that travel, not from those that could stay behind.

    The exporter asks the first input for them, even where a deeper stage needs nothing else of it.
    """
    shapes = {value.name: value.type.tensor_type.shape for value in model.graph.input}
    travelling = {shapes[name].SerializeToString(): name for name in handed_on}
    for node in model.graph.node:
        if node.op_type == "Shape" and node.input[0] in shapes:
            shape = shapes[node.input[0]].SerializeToString()
            node.input[0] = travelling.get(shape, node.input[0])


def _close_cuts(
    model: onnx.ModelProto, names: Mapping[Place, str], logits: Sequence[str]
) -> tuple[tuple[str, ...], ...]:
    """The carry of every cut: what its stage makes, then the inputs that deeper stages read."""
    made = [
        [name for (at, _), name in names.items() if at == cut] for cut in range(len(logits) - 1)
    ]
    return tuple(
        (*carry, *_inputs_behind(model, logits[cut:], carry))
        for cut, carry in enumerate(made, start=1)
    )


def _inputs_behind(
    model: onnx.ModelProto, outputs: Iterable[str], carry: Iterable[str]
) -> list[str]:
    """The graph inputs that `outputs` are computed from when the carry is given."""
    makers = {name: node for node in model.graph.node for name in node.output}
    seen = set(carry)
    wanted = list(outputs)
    while wanted:
        name = wanted.pop()
        if name not in seen:
            seen.add(name)
            wanted += makers[name].input if name in makers else []
    return [value.name for value in model.graph.input if value.name in seen]


@contextmanager
def quiet_exporter() -> Iterator[None]:
    """Silence the exporter, which reports its own internals through four channels."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)  # torch.onnx, torch.export and torch.fx all have their say
    try:
        with (
            warnings.catch_warnings(),
            redirect_stdout(StringIO()),
            redirect_stderr(StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
