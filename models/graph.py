"""Graph surgery: a multi-head graph is split at its cuts into one graph per stage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from models.errors import GraphError
from models.heads import OutputKind, output_name

if TYPE_CHECKING:
    import onnx

STAGE_OUTPUTS: tuple[OutputKind, ...] = ("probabilities", "labels", "score")


def split_stages(model: onnx.ModelProto, carries: Sequence[Sequence[str]]) -> list[onnx.ModelProto]:
    """Split `model` into K stages.

    Stage k takes the carry of cut k - 1 (stage 1: the graph's inputs) and gives
    `exit{k}_probabilities`, `exit{k}_labels`, `exit{k}_score`, then the carry of cut k. Every
    weight lands in the stages that read it.

    Parameters
    ----------
    model : multi-head graph, see `models.heads.attach_heads`
    carries : K - 1 groups of tensor names

    Raises
    ------
    GraphError
        When a carry is not a tensor of the graph, or a stage needs a tensor that its cut does not
        carry.
    """
    from onnx.shape_inference import infer_shapes
    from onnx.utils import Extractor

    extractor = Extractor(infer_shapes(model))
    initializers = {tensor.name for tensor in model.graph.initializer}
    entries = [[value.name for value in model.graph.input if value.name not in initializers]]
    entries += [list(carry) for carry in carries]
    stages = []
    for number, entry in enumerate(entries, start=1):
        outputs = [output_name(number, kind) for kind in STAGE_OUTPUTS]
        if number < len(entries):
            outputs += entries[number]
        try:
            stage = extractor.extract_model(entry, outputs)
        except ValueError as error:
            raise GraphError(f"stage {number} cannot be cut out of the graph: {error}") from error
        _check_closed(stage, number)
        stages.append(stage)
    return stages


def _check_closed(stage: onnx.ModelProto, number: int) -> None:
    known = {""} | {value.name for value in stage.graph.input}
    known |= {tensor.name for tensor in stage.graph.initializer}
    for node in stage.graph.node:
        for name in node.input:
            if name not in known:
                raise GraphError(
                    f"stage {number} reads tensor {name!r} (node {node.name!r}), which its cut "
                    f"does not carry: "
                    "the carry of a cut must hold every tensor that a deeper stage reads"
                )
        known |= set(node.output)
