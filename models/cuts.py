"""Finds the places where a graph may be cut: few tensors cross, all with the batch as dimension 0.

A tensor is *heavy* when it is made of input values and of weights. What is not (masks, position
ids, shapes, position biases) is not carried: the stage behind the cut derives it again from the
graph inputs that travel in the carry.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from models.errors import GraphError
from models.graph import graph_inputs, read_by

if TYPE_CHECKING:
    import onnx

PRODUCTS = {"Attention", "Conv", "ConvTranspose", "Gemm", "GRU", "LSTM", "MatMul", "RNN"}
FLOATS = {1, 10, 11, 16}  # ONNX element types: float32, float16, float64, bfloat16
SHAPE_READERS = {"Shape", "Size"}


@dataclass(frozen=True)
class Cut:
    """A candidate place for an exit.

    name : the scope a user knows it by, e.g. `encoder.layer.3`
    feature : the tensor that a head reads
    carry : tensor names; the heavy ones, then the graph inputs that deeper stages need
    """

    name: str
    feature: str
    carry: tuple[str, ...]


def find_cuts(
    model: onnx.ModelProto,
    output: str,
    mask: str | None = None,
    max_carry: int = 3,
    max_cuts: int = 32,
) -> list[Cut]:
    """Candidate cuts in depth order, thinned out to the boundaries of blocks.

    Parameters
    ----------
    model : nodes in topological order, as ONNX demands
    output : what the last exit reads; nothing behind it counts
    mask : a graph input that every head reads, and every carry therefore holds
    max_carry : the most tensors that may cross
    max_cuts : more candidates than this are thinned out evenly

    Raises
    ------
    GraphError
        When no place in the graph qualifies.
    """
    places = _Flow(model, output, mask).places()
    total = max((place.products for place in places), default=0)
    for width in range(1, max_carry + 1):
        narrow = [p for p in places if p.width <= width and len(p.carry) <= max_carry]
        blocks = _blocks(narrow)
        blocks = [place for place in blocks if 0 < place.products < total]
        if len(blocks) > 1 or (blocks and width == max_carry):
            stride = math.ceil(len(blocks) / max_cuts)
            names = _short_names([place.name for place in blocks])
            cuts = [
                Cut(name, place.heavy[-1], place.carry)
                for name, place in zip(names, blocks, strict=True)
            ]
            return cuts[::-stride][::-1]
    raise GraphError(_no_cut(places, max_carry))


def value_tensors(model: onnx.ModelProto, output: str) -> list[str]:
    """Tensors on the way to `output` that depend on input values, not on shapes alone."""
    return _Flow(model, output, None).value_tensors()


@dataclass(frozen=True)
class _Place:
    """A position behind a node."""

    name: str
    heavy: tuple[str, ...]
    carry: tuple[str, ...]
    width: int  # tensors of the carry but masks and ids
    products: int  # convolutions and matrix products before this position


class _Flow:
    """Which tensors cross each position of a graph, and what they are made of."""

    def __init__(self, model: onnx.ModelProto, output: str, mask: str | None) -> None:
        self._nodes = model.graph.node
        self._mask = mask
        self._inputs = graph_inputs(model)
        self._float_inputs = {
            value.name
            for value in model.graph.input
            if value.type.tensor_type.elem_type in FLOATS and value.name in self._inputs
        }
        self._weights = {
            tensor.name
            for tensor in model.graph.initializer
            if tensor.data_type in FLOATS and math.prod(tensor.dims) > 1
        }
        # graph inputs behind a tensor: those whose values it is made of, and all
        self._values: dict[str, frozenset[str]] = {n: frozenset([n]) for n in self._inputs}
        self._sources = dict(self._values)
        self._heavy: set[str] = set()
        needed = _needed_nodes(model, output)
        self._order = [index for index in range(len(self._nodes)) if index in needed]
        self._last_read: dict[str, int] = {output: len(self._nodes)}
        for index in self._order:
            self._follow(index, self._nodes[index])

    def _follow(self, index: int, node: onnx.NodeProto) -> None:
        nothing: frozenset[str] = frozenset()
        read = read_by(node)
        sources = nothing.union(*(self._sources.get(name, nothing) for name in read))
        values = nothing.union(*(self._values.get(name, nothing) for name in read))
        heavy = any(name in self._heavy for name in read)
        if node.op_type in SHAPE_READERS:
            values = nothing
        elif values:
            heavy |= node.op_type in PRODUCTS or any(name in self._weights for name in read)
        for name in read:
            self._last_read[name] = max(index, self._last_read.get(name, index))
        for name in node.output:
            self._sources[name] = sources
            self._values[name] = values
            if heavy:
                self._heavy.add(name)

    def value_tensors(self) -> list[str]:
        """In the order of the graph."""
        made = [name for index in self._order for name in self._nodes[index].output if name]
        return [name for name in made if self._values[name]]

    def places(self) -> list[_Place]:
        """Every position where the newest tensor is a heavy one."""
        found = []
        alive: list[str] = []  # heavy tensors made and still needed, in the order they were made
        light: list[str] = list(self._inputs)  # the others
        products, name = 0, ""
        for index in self._order:
            node = self._nodes[index]
            products += node.op_type in PRODUCTS
            made = [output for output in node.output if output]
            alive += [output for output in made if output in self._heavy]
            light += [output for output in made if output not in self._heavy]
            alive = [tensor for tensor in alive if self._last_read.get(tensor, -1) > index]
            light = [tensor for tensor in light if self._last_read.get(tensor, -1) > index]
            if alive and alive[-1] in made:
                name = scope(node) or name
                carry = (*alive, *self._inputs_behind(light))
                width = len(alive) + len(self._float_inputs.intersection(carry))
                found.append(_Place(name or alive[-1], tuple(alive), carry, width, products))
        return found

    def _inputs_behind(self, light: Sequence[str]) -> list[str]:
        """The graph inputs that these tensors are made of, and the mask."""
        needed = frozenset[str]().union(*(self._sources[name] for name in light))
        return [name for name in self._inputs if name in needed or name == self._mask]


def _needed_nodes(model: onnx.ModelProto, output: str) -> set[int]:
    """Nodes that `output` is computed by."""
    makers = {name: index for index, node in enumerate(model.graph.node) for name in node.output}
    needed: set[int] = set()
    waiting = [output]
    while waiting:
        index = makers.get(waiting.pop(), -1)
        if index >= 0 and index not in needed:
            needed.add(index)
            waiting += read_by(model.graph.node[index])
    return needed


def _blocks(places: Sequence[_Place]) -> list[_Place]:
    """The ends of blocks: of modules where the graph names them, else before the next product.

    What follows a module without a product of its own, such as taking the first token, is no block.
    """
    named = [place for place, following in pairwise(places) if place.name != following.name]
    ends = [*named, *places[-1:]]
    if len(ends) < len(places):
        return [
            place
            for before, place in pairwise([None, *ends])
            if place and (before is None or before.products != place.products)
        ]
    inner = [place for place, following in pairwise(ends) if place.products != following.products]
    return [*inner, *ends[-1:]]


def scope(node: onnx.NodeProto) -> str:
    """The innermost numbered module around a node, e.g. `encoder.layer.3`; empty where unknown."""
    properties = {entry.key: entry.value for entry in node.metadata_props}
    scopes = properties.get("pkg.torch.onnx.name_scopes")
    if scopes:
        path = max(json.loads(scopes.replace("'", '"'))[:-1], key=len, default="")
    else:
        path = ".".join(node.name.split("/")[1:-1])
    match = re.match(r"(.*\b\d+)(?:\.|$)", path)
    return match[1] if match else path


def _short_names(names: Sequence[str]) -> list[str]:
    """Without the leading modules that all of them share, as a wrapper around a network has."""
    parts = [name.split(".") for name in names]
    shared = 0
    while all(len(p) > shared + 3 and p[shared] == parts[0][shared] for p in parts):
        shared += 1
    return [".".join(p[shared:]) for p in parts]


def _no_cut(places: Sequence[_Place], max_carry: int) -> str:
    total = max((place.products for place in places), default=0)
    inner = [place for place in places if 0 < place.products < total]
    if not inner:
        return (
            "no usable cut: the model has fewer than two layers (convolutions or matrix products) "
            "outside control flow; there is no earlier place to answer from"
        )
    narrowest = min(inner, key=lambda place: place.width)
    return (
        f"no usable cut: at least {narrowest.width} tensors cross between any two layers "
        f"(found at {narrowest.name!r}: {', '.join(narrowest.carry)}), expected at most "
        f"{max_carry}; allow more with --max-carry"
    )
