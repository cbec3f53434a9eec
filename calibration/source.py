"""A source: a trained model as one ONNX graph, with what is known of its inputs and outputs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from models.preprocessing import Preprocessing, TensorSpec

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True)
class Source:
    """A model that somebody trained.

    model : the graph, weights inside, batch in dimension 0 of every input
    inputs : the graph's inputs, in their order
    output : the tensor that the last exit reads: logits (batch, L), or with no head of its own the
        last hidden state (batch, tokens, C), (batch, C, H, W) or (batch, C)
    has_head : whether `output` is logits over the labels
    preprocessing : None where the model does not say: rows are numbers then
    files : what the preprocessing needs in the bundle, e.g. `tokenizer.json`
    names : label names that came with the model
    facts : recorded in the manifest, e.g. where the model came from
    """

    model: onnx.ModelProto
    inputs: tuple[TensorSpec, ...]
    output: str
    has_head: bool
    preprocessing: Preprocessing | None = None
    files: dict[str, bytes] = field(default_factory=dict)
    names: tuple[str, ...] | None = None
    facts: dict[str, Any] = field(default_factory=dict)
