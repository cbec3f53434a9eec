"""A valid ONNX graph becomes a source: inputs read, output chosen, what is not needed removed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from calibration.graph_output import GraphOutput, choose_output
from calibration.source import Source
from models.errors import GraphError
from models.graph import declare, extract_graph, graph_inputs, read_by
from models.preprocessing import TensorSpec

if TYPE_CHECKING:
    import onnx

DTYPES: dict[int, Literal["float32", "float16", "int64", "int32", "bool"]] = {
    1: "float32",
    6: "int32",
    7: "int64",
    9: "bool",
    10: "float16",
}  # by ONNX element type

FIRST_IR_WITHOUT_WEIGHTS_AS_INPUTS = 4


def source_from_graph(
    model: onnx.ModelProto,
    labels: int,
    output: str | None = None,
    has_head: bool | None = None,
    facts: Mapping[str, Any] | None = None,
) -> Source:
    """Make a source of a graph: local functions inlined, only what the output needs kept.

    Parameters
    ----------
    model : weights inside, nodes in topological order
    labels : L, the labels of the data
    output, has_head : see `calibration.graph_output.choose_output`
    facts : recorded in the manifest, beside notes on the choice of the output

    Raises
    ------
    GraphError
        When an input has no batch in dimension 0, or no tensor can serve as the output.
    """
    from onnx.inliner import inline_local_functions
    from onnx.shape_inference import infer_shapes

    if model.functions:
        model = inline_local_functions(model)
    model = infer_shapes(model)
    chosen = choose_output(model, labels, output, has_head)
    kept = _keep_only(model, chosen)
    inputs = tuple(_input_spec(value) for value in kept.graph.input)
    recorded = {**(facts or {}), "output": chosen.name}
    if chosen.notes:
        recorded["notes"] = list(chosen.notes)
    return Source(kept, inputs, chosen.name, chosen.has_head, facts=recorded)


def _keep_only(model: onnx.ModelProto, chosen: GraphOutput) -> onnx.ModelProto:
    """The graph with one output, without nodes, weights and inputs that it does not need."""
    kept = extract_graph(model, graph_inputs(model), [chosen.name])
    kept.ir_version = max(kept.ir_version, FIRST_IR_WITHOUT_WEIGHTS_AS_INPUTS)
    made = {name for node in kept.graph.node for name in node.output}
    declare(kept, (value for value in model.graph.value_info if value.name in made))
    read = {name for node in kept.graph.node for name in read_by(node)}
    for value in [value for value in kept.graph.input if value.name not in read]:
        kept.graph.input.remove(value)
    if not kept.graph.input:
        raise GraphError(
            f"the output {chosen.name!r} depends on no input of the model, expected one that does: "
            "name another tensor with --output"
        )
    return kept


def _input_spec(value: onnx.ValueInfoProto) -> TensorSpec:
    kind = value.type.tensor_type
    if kind.elem_type not in DTYPES:
        raise GraphError(
            f"input {value.name!r} is no tensor of {', '.join(DTYPES.values())}; expected one of "
            "them: cast inside the model, and export it again"
        )
    dims = kind.shape.dim
    if not dims:
        raise GraphError(
            f"input {value.name!r} has no dimensions, expected the batch in dimension 0: make it a "
            "constant of the model, or give it one value per row"
        )
    if dims[0].dim_value > 0:
        raise GraphError(
            f"input {value.name!r} has a fixed batch of {dims[0].dim_value}, expected a dynamic "
            "dimension 0: export the model again with dynamic_shapes={"
            f"{value.name!r}: {{0: torch.export.Dim('batch')}}}} and dynamo=True (for older "
            f"exporters dynamic_axes={{{value.name!r}: {{0: 'batch'}}}})"
        )
    row_shape = tuple(dim.dim_value if dim.dim_value > 0 else None for dim in dims[1:])
    return TensorSpec(name=value.name, dtype=DTYPES[kind.elem_type], row_shape=row_shape)
