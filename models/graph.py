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
    """Split a multi-head graph into K stages.

    Stage k gives `exit{k}_probabilities`, `exit{k}_labels`, `exit{k}_score`, then the carry of
    cut k.

    Parameters
    ----------
    model : multi-head graph, see `models.heads.attach_heads`
    carries : K - 1 groups of tensor names

    Raises
    ------
    GraphError
        See `split_graph`.
    """
    depth = len(carries) + 1
    answers = [[output_name(k, kind) for kind in STAGE_OUTPUTS] for k in range(1, depth + 1)]
    return split_graph(model, carries, answers)


def split_graph(
    model: onnx.ModelProto, carries: Sequence[Sequence[str]], answers: Sequence[Sequence[str]]
) -> list[onnx.ModelProto]:
    """Split `model` at its cuts; every weight lands in the stages that read it.

    Stage k takes the carry of cut k - 1 (stage 1: the graph's inputs) and gives its answers, then
    the carry of cut k.

    Parameters
    ----------
    carries : K - 1 groups of tensor names
    answers : K groups of tensor names

    Raises
    ------
    GraphError
        When a name is not a tensor of the graph, or a stage needs a tensor that its cut does not
        carry.
    """
    from onnx.shape_inference import infer_shapes
    from onnx.utils import Extractor

    extractor = Extractor(infer_shapes(model))
    initializers = {tensor.name for tensor in model.graph.initializer}
    inputs = [value.name for value in model.graph.input if value.name not in initializers]
    entries = [inputs, *carries]
    stages = []
    for number, (entry, answer, carry) in enumerate(
        zip(entries, answers, [*carries, ()], strict=True), start=1
    ):
        # a graph input that is carried on is an input of this stage already, not an output
        outputs = [*answer, *(name for name in carry if name not in entry)]
        try:
            stage = extractor.extract_model(list(entry), outputs)
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
