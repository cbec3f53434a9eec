"""A torch module becomes an ONNX graph with a dynamic batch, compared with the module itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from models.errors import GraphError
from models.export import quiet_exporter
from models.runtime import open_session

if TYPE_CHECKING:
    import onnx

TOLERANCE = 1e-3  # relative to the largest output
SIZES = (
    "if it loops over the rows, or keeps sizes as Python numbers, the exporter took them for "
    "constants: compute with whole tensors and tensor.shape"
)

Axes = Mapping[int, str]
"""Dynamic dimensions of a tensor and their names, e.g. {0: "batch", 1: "tokens"}."""


def export_module(
    module: nn.Module,
    examples: Mapping[str, Tensor],
    axes: Mapping[str, Axes],
    output: str,
    by_name: bool = False,
) -> onnx.ModelProto:
    """Export a module in evaluation mode; its first output, or its logits, becomes the graph's.

    The graph is run beside the module with other numbers of rows, so that sizes that the exporter
    took for constants are found here.

    Parameters
    ----------
    module : gives a tensor, a tuple or list of them, or a mapping
    examples : input name -> tensor, every dynamic dimension larger than 1
    axes : input name -> dynamic dimensions
    output : name that the graph's output gets
    by_name : pass the inputs as keyword arguments, not in their order

    Raises
    ------
    GraphError
        When the module cannot be exported, or the graph answers differently.
    """
    module.eval()
    hook = module.register_forward_hook(lambda _module, _inputs, found: first_tensor(found))
    try:
        _run(module, examples, by_name)
        model = _export(module, examples, axes, output, by_name)
        _compare(module, model, examples, axes, by_name)
    finally:
        hook.remove()
    return model


def first_tensor(found: object) -> Tensor:
    """The logits of a model's answer where it has some by name, else its first tensor.

    Raises
    ------
    GraphError
        When there is no tensor in it.
    """
    if isinstance(found, Tensor):
        return found
    if isinstance(getattr(found, "logits", None), Tensor):
        return found.logits  # type: ignore[attr-defined, no-any-return]
    if isinstance(found, Mapping):
        found = [found["logits"]] if "logits" in found else list(found.values())
    if isinstance(found, Sequence) and any(isinstance(item, Tensor) for item in found):
        return next(item for item in found if isinstance(item, Tensor))
    raise GraphError(
        f"the module returned {type(found).__name__}, expected a tensor, or a tuple or mapping of "
        "tensors whose first, or whose `logits`, are the logits"
    )


def _run(module: nn.Module, inputs: Mapping[str, Tensor], by_name: bool) -> np.ndarray:
    """The module's own answer."""
    try:
        with torch.inference_mode():
            answer: Tensor = module(**inputs) if by_name else module(*inputs.values())
    except GraphError:
        raise
    except Exception as error:  # the user's own code
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise GraphError(
            f"the torch module fails on inputs {_shapes(inputs)}: {reason}; expected one that "
            "takes any number of rows in the shape of the data's"
        ) from error
    return answer.numpy()


def _shapes(inputs: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in inputs.items()}


def _export(
    module: nn.Module,
    examples: Mapping[str, Tensor],
    axes: Mapping[str, Axes],
    output: str,
    by_name: bool,
) -> onnx.ModelProto:
    names = dict.fromkeys(name for tensor_axes in axes.values() for name in tensor_axes.values())
    dims = {name: torch.export.Dim(name) for name in names}
    shapes = {name: {i: dims[axis] for i, axis in axes[name].items()} for name in examples}
    try:
        with quiet_exporter():
            program = torch.onnx.export(
                module,
                () if by_name else tuple(examples.values()),
                kwargs=dict(examples) if by_name else None,
                input_names=list(examples),
                output_names=[output],
                dynamic_shapes=shapes if by_name else tuple(shapes.values()),
                dynamo=True,
                verbose=False,
            )
    except Exception as error:  # the exporter runs the user's code, which may raise anything
        raise GraphError(_not_exported(error)) from error
    if program is None:
        raise GraphError("torch.onnx.export(dynamo=True) returned no program")
    return _copy_sizes(program.model_proto)


def _not_exported(error: BaseException) -> str:
    """The innermost cause, as one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    reason = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
    return (
        f"the torch module cannot be exported to ONNX with a dynamic batch: {reason[:300]}; "
        "expected a module that torch.export can trace: no Python branches on tensor values, no "
        "sizes taken from the example; or export it yourself and give the ONNX file"
    )


def _compare(
    module: nn.Module,
    model: onnx.ModelProto,
    examples: Mapping[str, Tensor],
    axes: Mapping[str, Axes],
    by_name: bool,
) -> None:
    """Run graph and module on one short row, and on three times the rows."""
    session = open_session(model.SerializeToString())
    short = {name: _shortened(tensor, axes[name]) for name, tensor in examples.items()}
    more = {name: torch.cat([tensor] * 3) for name, tensor in examples.items()}
    for inputs in (short, more):
        expected = _run(module, inputs, by_name)
        try:
            found = session.run(None, {name: inputs[name].numpy() for name in _fed(session)})[0]
        except Exception as error:  # ONNX Runtime has no public base class for its errors
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise GraphError(
                f"the exported graph fails on inputs {_shapes(inputs)}: {reason}; {SIZES}"
            ) from error
        _check_equal(found, expected, _shapes(inputs))


def _fed(session: Any) -> list[str]:
    return [value.name for value in session.get_inputs()]


def _check_equal(
    found: np.ndarray, expected: np.ndarray, sizes: Mapping[str, tuple[int, ...]]
) -> None:
    if found.shape != expected.shape:
        difference = f"gives shape {found.shape} instead of {expected.shape}"
    else:
        error = float(np.abs(found - expected).max(initial=0.0))
        if error <= TOLERANCE * max(1.0, float(np.abs(expected).max(initial=0.0))):
            return
        difference = f"differs by {error:.2g}"
    raise GraphError(
        f"the exported graph {difference} on inputs {sizes}, expected the torch module's answers: "
        f"if the module draws random numbers in evaluation mode, remove that; {SIZES}"
    )


def _shortened(tensor: Tensor, axes: Axes) -> Tensor:
    """One row; other dynamic dimensions halved."""
    for axis in axes:
        tensor = tensor.narrow(axis, 0, 1 if axis == 0 else tensor.shape[axis] // 2)
    return tensor


def _copy_sizes(model: onnx.ModelProto) -> onnx.ModelProto:
    """Let reshapes copy dynamic sizes from the tensor that they reshape.

    The exporter reads all sizes from a graph input, which would then have to travel with the carry.
    """
    from onnx import numpy_helper

    graph = model.graph
    constants = {tensor.name for tensor in graph.initializer}
    shapes = {v.name: _sizes(v) for v in [*graph.value_info, *graph.input, *graph.output]}
    for node in graph.node:
        if node.op_type != "Reshape" or node.input[1] in constants:
            continue
        target = _relative_shape(shapes.get(node.input[0]), shapes.get(node.output[0]))
        if target is not None:
            name = f"{node.output[0]}_shape"
            graph.initializer.append(numpy_helper.from_array(np.array(target, np.int64), name))
            node.input[1] = name
            del node.attribute[:]  # allowzero, its only one: here zeros mean "as before"
    return model


def _sizes(value: onnx.ValueInfoProto) -> list[int | str]:
    return [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]


def _relative_shape(
    before: list[int | str] | None, after: list[int | str] | None
) -> list[int] | None:
    """A constant shape for Reshape: 0 copies a size, one -1 follows; None where that is too few."""
    if not before or not after:
        return None
    target = [
        size if isinstance(size, int) else 0 if before[i : i + 1] == [size] else -1
        for i, size in enumerate(after)
    ]
    usable = target.count(-1) <= 1 and not any(size == 0 for size in after)
    return target if usable else None
