"""Graph surgery: a graph is split at its cuts into one graph per stage."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from models.errors import GraphError
from models.heads import OutputKind, output_name

if TYPE_CHECKING:
    import onnx

STAGE_OUTPUTS: tuple[OutputKind, ...] = ("probabilities", "labels", "score")


def split_stages(
    model: onnx.ModelProto,
    carries: Sequence[Sequence[str]],
    exits: Sequence[int] | None = None,
) -> list[onnx.ModelProto]:
    """Split a multi-head graph into stages, one per exit.

    The stage of exit k gives `exit{k}_probabilities`, `exit{k}_labels`, `exit{k}_score`, then the
    carry of the cut behind it.

    Parameters
    ----------
    model : multi-head graph, see `models.heads.attach_heads`
    carries : groups of tensor names, one per exit but the last
    exits : their numbers; by default 1..K

    Raises
    ------
    GraphError
        See `split_graph`.
    """
    numbers = exits or range(1, len(carries) + 2)
    answers = [[output_name(k, kind) for kind in STAGE_OUTPUTS] for k in numbers]
    return split_graph(model, carries, answers)


def split_graph(
    model: onnx.ModelProto, carries: Sequence[Sequence[str]], answers: Sequence[Sequence[str]]
) -> list[onnx.ModelProto]:
    """Split `model` at its cuts; every weight lands in the stages that read it.

    Stage k takes the carry of cut k - 1 (stage 1: the graph's inputs) and gives its answers, then
    the carry of cut k. What a carry does not hold is computed again where it follows from the graph
    inputs that it does hold.

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
    whole = _Graph(model)
    entries = [graph_inputs(model), *carries]
    stages = []
    for number, (entry, answer, carry) in enumerate(
        zip(entries, answers, [*carries, ()], strict=True), start=1
    ):
        # a graph input that is carried on is an input of this stage already, not an output; a carry
        # may name an answer, which the next exit's score reads
        outputs = [*answer, *(name for name in carry if name not in {*entry, *answer})]
        stages.append(whole.extract(entry, outputs, f"stage {number}"))
    return stages


def extract_graph(
    model: onnx.ModelProto, inputs: Sequence[str], outputs: Sequence[str]
) -> onnx.ModelProto:
    """The part of the graph that computes `outputs` from `inputs`.

    Raises
    ------
    GraphError
        When a name is not a tensor of the graph, or the outputs need more than the inputs.
    """
    return _Graph(model).extract(inputs, outputs, "the sub-graph")


def graph_inputs(model: onnx.ModelProto) -> list[str]:
    """Names of the inputs; older files list initializers among them, which are not."""
    constants = {tensor.name for tensor in model.graph.initializer}
    return [value.name for value in model.graph.input if value.name not in constants]


def read_by(node: onnx.NodeProto) -> list[str]:
    """Tensors that a node reads, those that its inner graphs take from outside included."""
    reads = [name for name in node.input if name]
    for attribute in node.attribute:
        for inner in [attribute.g, *attribute.graphs]:
            made = {value.name for value in inner.input} | {t.name for t in inner.initializer}
            for inner_node in inner.node:
                reads += [name for name in read_by(inner_node) if name not in made]
                made |= set(inner_node.output)
            reads += [value.name for value in inner.output if value.name not in made]
    return reads


def rename_tensor(model: onnx.ModelProto, old: str, new: str) -> None:
    """Give a tensor another name, wherever it is made, read or declared (inner graphs excepted)."""
    graph = model.graph
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = [new if name == old else name for name in names]
    for value in [*graph.input, *graph.output, *graph.value_info]:
        if value.name == old:
            value.name = new


class _Graph:
    """A graph with the indices that extraction needs."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._model = model
        self._makers = {
            name: index for index, node in enumerate(model.graph.node) for name in node.output
        }
        self._initializers = {tensor.name: tensor for tensor in model.graph.initializer}
        self._inputs = set(graph_inputs(model))
        graph = model.graph
        self._types = {
            value.name: value for value in [*graph.value_info, *graph.input, *graph.output]
        }

    def extract(self, inputs: Sequence[str], outputs: Sequence[str], what: str) -> onnx.ModelProto:
        import onnx

        for name in [*inputs, *outputs]:
            if name not in self._makers and name not in self._inputs:
                raise GraphError(f"{what} cannot be cut out: the graph has no tensor {name!r}")
        nodes, initializers = self._closure(inputs, outputs, what)
        graph = self._model.graph
        part = onnx.ModelProto()
        part.CopyFrom(_without_graph(self._model))
        part.graph.name = graph.name
        part.graph.node.extend(graph.node[index] for index in sorted(nodes))
        part.graph.initializer.extend(self._initializers[name] for name in sorted(initializers))
        part.graph.input.extend(self._type(name) for name in inputs)
        # ONNX Runtime infers the types of outputs, but not those of inputs
        bare = {name: onnx.ValueInfoProto(name=name) for name in outputs}
        part.graph.output.extend(self._types.get(name, bare[name]) for name in outputs)
        inner = {n for index in nodes for n in graph.node[index].output}.difference(outputs)
        part.graph.value_info.extend(v for v in graph.value_info if v.name in inner)
        return part

    def _closure(
        self, inputs: Sequence[str], outputs: Sequence[str], what: str
    ) -> tuple[set[int], set[str]]:
        """Nodes and initializers behind `outputs`, going back as far as `inputs`."""
        nodes: set[int] = set()
        initializers: set[str] = set()
        known = set(inputs)
        waiting = [(name, "") for name in outputs]
        while waiting:
            name, reader = waiting.pop()
            if name in known:
                continue
            known.add(name)
            if name in self._initializers:
                initializers.add(name)
            elif name in self._makers:
                index = self._makers[name]
                if index not in nodes:
                    nodes.add(index)
                    node = self._model.graph.node[index]
                    waiting += [(read, node.name) for read in read_by(node)]
            else:
                raise GraphError(
                    f"{what} reads tensor {name!r} (node {reader!r}), which its cut does not "
                    "carry: the carry of a cut must hold every tensor that a deeper stage reads"
                )
        return nodes, initializers

    def _type(self, name: str) -> onnx.ValueInfoProto:
        if name not in self._types:
            from onnx.shape_inference import infer_shapes

            for value in infer_shapes(self._model).graph.value_info:
                self._types.setdefault(value.name, value)
        if name not in self._types:
            raise GraphError(
                f"the type of tensor {name!r} is not known: shape inference does not reach it, so "
                "no cut can stand there"
            )
        known: onnx.ValueInfoProto = self._types[name]
        return known


def _without_graph(model: onnx.ModelProto) -> onnx.ModelProto:
    """Everything about a model but its graph, without copying the weights."""
    import onnx

    return onnx.ModelProto(
        ir_version=model.ir_version,
        opset_import=model.opset_import,
        functions=model.functions,
        producer_name=model.producer_name,
        producer_version=model.producer_version,
    )


def declare(model: onnx.ModelProto, values: Iterable[onnx.ValueInfoProto]) -> None:
    """Record the types of inner tensors, so that a cut can stand there without shape inference."""
    graph = model.graph
    known = {value.name for value in [*graph.value_info, *graph.input, *graph.output]}
    graph.value_info.extend(value for value in values if value.name not in known)
