"""A transformer encoder of MiniLM's shape with random weights and an exit behind every layer.

Needs numpy and onnx only, so that a machine with a device can build it. Its answers mean nothing
and its costs everything: the shapes are those of a bundle that was calibrated on GoEmotions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import sqrt

import numpy as np
from onnx import TensorProto, helper

from models.encoding import MASK
from models.graph_writer import GraphWriter
from models.heads import HeadCalibration, HeadLayers, add_logits, attach_heads, round_feature
from models.pooling import add_pooling
from models.runtime import Carry, Runtime
from models.scores import exit_tensor

IDS = "input_ids"
OPSET = 18
SHARES = (0.40, 0.25, 0.15, 0.10, 0.05, 0.05)
"""Of rows that leave at each of six exits."""


@dataclass(frozen=True)
class Shape:
    """Sizes of an encoder; by default those of MiniLM-L6 with GoEmotions' labels."""

    layers: int = 6
    hidden: int = 384
    heads: int = 12
    inner: int = 1536
    labels: int = 28
    head_width: int = 256
    vocabulary: int = 30522
    positions: int = 512


def random_encoder(seed: int = 0, **sizes: int) -> tuple[bytes, list[tuple[str, ...]]]:
    """Build a multi-head graph with an exit behind every layer.

    Inputs are `input_ids` and `attention_mask`, int64 (batch, tokens).

    Parameters
    ----------
    sizes : of `Shape`, where they are not those of MiniLM

    Returns
    -------
    The serialized graph and its K - 1 carries: hidden states float32 (batch, tokens, hidden) and
    the mask.
    """
    shape = Shape(**sizes)
    rng = np.random.default_rng(seed)
    graph = helper.make_graph([], "random_encoder", [], [])
    for name in (IDS, MASK):
        graph.input.append(helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "t"]))
    hidden = _Layers(GraphWriter(graph, "", OPSET), rng, shape).append()
    for number, tensor in enumerate(hidden, start=1):
        writer = GraphWriter(graph, exit_tensor(number, ""), OPSET)
        feature = round_feature(writer, add_pooling(writer, tensor, 3, MASK))
        add_logits(writer, feature, _random_head(rng, shape))
        graph.value_info.append(
            helper.make_tensor_value_info(tensor, TensorProto.FLOAT, ["batch", "t", shape.hidden])
        )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    calibration = HeadCalibration(
        np.ones(shape.labels), np.full(shape.labels, -1.0), np.full(shape.labels, 0.5)
    )
    headed = attach_heads(model, [calibration] * shape.layers)
    return headed.SerializeToString(), [(tensor, MASK) for tensor in hidden[:-1]]


def random_rows(rows: int, tokens: int, seed: int = 0, vocabulary: int = 30522) -> Carry:
    """Token ids and mask, int64 (rows, tokens) each, the second half of a row padded at random."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(tokens // 2 + 1, tokens + 1, rows)
    mask = (np.arange(tokens) < lengths[:, None]).astype(np.int64)
    return rng.integers(0, vocabulary, (rows, tokens)) * mask, mask


def exit_thresholds(runtime: Runtime, rows: Carry, shares: Sequence[float] = SHARES) -> list[float]:
    """Thresholds with which given shares of rows leave at each exit.

    Parameters
    ----------
    rows : tensors (n, ...), the model's inputs
    shares : S, of the n rows, at each stage; together 1

    Returns
    -------
    S thresholds: infinite where no row leaves, -infinite where all others do.

    Raises
    ------
    ValueError
        When the shares are not S shares.
    """
    stages = len(runtime.exits)
    if len(shares) != stages or min(shares) < 0 or abs(sum(shares) - 1) > 1e-6:
        raise ValueError(
            f"found the shares {tuple(shares)}, expected {stages} that are together 1: one for "
            "every stage"
        )
    present = np.arange(len(rows[0]))
    goals = np.rint(np.cumsum(shares[::-1])[::-1] * len(present)).astype(int)  # before each exit
    carry, thresholds = rows, []
    for stage, stay in enumerate([*goals[1:], 0], start=1):
        answers, carry = runtime.run(stage, carry)
        scores = answers.score[present]
        thresholds.append(_threshold(scores, stay))
        present = present[scores < thresholds[-1]]
    return thresholds


def _threshold(scores: np.ndarray, stay: int) -> float:
    """Between the scores of the `stay` rows that stay and those of the rows that leave."""
    if stay <= 0:
        return -np.inf
    if stay >= len(scores):
        return np.inf
    below, above = np.sort(scores)[stay - 1 : stay + 1]
    return float((np.float64(below) + above) / 2)


def _random_head(rng: np.random.Generator, shape: Shape) -> HeadLayers:
    widths = (2 * shape.hidden, shape.head_width, shape.labels)
    weights = tuple(
        rng.normal(0, sqrt(2 / rows), (rows, columns)).astype(np.float32)
        for rows, columns in pairwise(widths)
    )
    return HeadLayers(weights, tuple(np.zeros(columns, np.float32) for columns in widths[1:]))


class _Layers:
    """Appends embeddings and layers; values are names of tensors, shapes (batch, t, ...)."""

    def __init__(self, writer: GraphWriter, rng: np.random.Generator, shape: Shape) -> None:
        self._writer = writer
        self._node = writer.node
        self._rng = rng
        self._shape = shape

    def append(self) -> list[str]:
        """The hidden states behind every layer, float32 (batch, t, hidden)."""
        tensor = self._embeddings()
        bias = self._mask_bias()
        hidden = []
        for number in range(self._shape.layers):
            tensor = self._layer(tensor, bias, f"layer{number}_")
            hidden.append(tensor)
        return hidden

    def _embeddings(self) -> str:
        shape = self._shape
        words = self._weight("words", (shape.vocabulary, shape.hidden))
        table = self._weight("positions", (shape.positions, shape.hidden))
        tokens = self._node("Shape", [IDS], "tokens", start=1, end=2)
        zero = self._writer.constant("zero", np.zeros(1, np.int64))
        positions = self._node("Slice", [table, zero, tokens, zero], "token_positions")
        embedded = self._node("Gather", [words, IDS], "embedded", axis=0)
        placed = self._node("Add", [embedded, positions], "placed")
        return self._normal(placed, "embeddings")

    def _mask_bias(self) -> str:
        """0 where a token counts, a large negative number elsewhere: (batch, 1, 1, t)."""
        ones = self._writer.constant("mask_one", np.ones(1, np.float32))
        least = self._writer.constant("mask_least", np.full(1, -1e4, np.float32))
        kept = self._node("Cast", [MASK], "kept", to=TensorProto.FLOAT)
        lost = self._node("Mul", [self._node("Sub", [ones, kept], "lost"), least], "mask_row")
        return self._writer.unsqueeze(self._writer.unsqueeze(lost, 1, "mask_head"), 1, "mask_bias")

    def _layer(self, tensor: str, bias: str, name: str) -> str:
        attended = self._node("Add", [self._attention(tensor, bias, name), tensor], f"{name}summed")
        middle = self._normal(attended, f"{name}attention")
        inner = self._linear(middle, (self._shape.hidden, self._shape.inner), f"{name}inner")
        wide = self._gelu(inner, name)
        narrow = self._linear(wide, (self._shape.inner, self._shape.hidden), f"{name}outer")
        return self._normal(self._node("Add", [narrow, middle], f"{name}added"), f"{name}output")

    def _attention(self, tensor: str, bias: str, name: str) -> str:
        square = (self._shape.hidden, self._shape.hidden)
        query, key, value = (
            self._heads(self._linear(tensor, square, f"{name}{part}"), order, f"{name}{part}")
            for part, order in (
                ("query", [0, 2, 1, 3]),
                ("key", [0, 2, 3, 1]),
                ("value", [0, 2, 1, 3]),
            )
        )
        size = np.array(sqrt(self._shape.hidden // self._shape.heads), np.float32)
        root = self._writer.constant(f"{name}root", size)
        products = self._node("MatMul", [query, key], f"{name}products")  # (batch, heads, t, t)
        scaled = self._node("Div", [products, root], f"{name}scaled")
        masked = self._node("Add", [scaled, bias], f"{name}masked")
        weights = self._node("Softmax", [masked], f"{name}weights", axis=-1)
        mixed = self._node("MatMul", [weights, value], f"{name}mixed")
        back = self._node("Transpose", [mixed], f"{name}back", perm=[0, 2, 1, 3])
        flat = self._reshape(back, [0, 0, self._shape.hidden], f"{name}flat")
        return self._linear(flat, square, f"{name}projected")

    def _heads(self, tensor: str, order: list[int], name: str) -> str:
        sizes = [0, 0, self._shape.heads, self._shape.hidden // self._shape.heads]
        split = self._reshape(tensor, sizes, f"{name}_split")
        return self._node("Transpose", [split], f"{name}_heads", perm=order)

    def _gelu(self, tensor: str, name: str) -> str:
        root, one, half = (
            self._writer.constant(f"{name}gelu_{part}", np.array(value, np.float32))
            for part, value in (("root", sqrt(2)), ("one", 1), ("half", 0.5))
        )
        erf = self._node("Erf", [self._node("Div", [tensor, root], f"{name}over")], f"{name}erf")
        gate = self._node("Add", [erf, one], f"{name}gate")
        return self._node(
            "Mul", [self._node("Mul", [tensor, gate], f"{name}gated"), half], f"{name}gelu"
        )

    def _linear(self, tensor: str, shape: tuple[int, int], name: str) -> str:
        product = self._node("MatMul", [tensor, self._weight(f"{name}_weight", shape)], f"{name}_x")
        bias = self._writer.constant(f"{name}_bias", np.zeros(shape[1], np.float32))
        return self._node("Add", [product, bias], name)

    def _normal(self, tensor: str, name: str) -> str:
        width = self._shape.hidden
        scale = self._writer.constant(f"{name}_scale", np.ones(width, np.float32))
        shift = self._writer.constant(f"{name}_shift", np.zeros(width, np.float32))
        return self._node(
            "LayerNormalization", [tensor, scale, shift], name, axis=-1, epsilon=1e-12
        )

    def _reshape(self, tensor: str, sizes: list[int], name: str) -> str:
        shape = self._writer.constant(f"{name}_shape", np.array(sizes, np.int64))
        return self._node("Reshape", [tensor, shape], name)

    def _weight(self, name: str, shape: tuple[int, ...]) -> str:
        value = self._rng.standard_normal(shape, np.float32) * np.float32(0.02)  # as BERT's
        return self._writer.constant(name, value)
