"""The gate of an exit, inside the graph: a logistic model of "this row is not lost"."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from models.graph_writer import GraphWriter

SMALLEST_MARGINS = 5  # that a gate looks at


@dataclass(frozen=True)
class Gate:
    """A logistic model over the evidence of one exit.

    score = sigmoid(weights . (evidence - mean) / scale + bias)

    weights, mean, scale : float (F,), F as `evidence_width` says
    """

    weights: np.ndarray
    bias: float
    mean: np.ndarray
    scale: np.ndarray


def evidence_width(number: int, labels: int) -> int:
    """How many numbers the gate of exit `number` reads of a row with L labels.

    The smallest margins (5, or L if fewer) ascending; log(1 + size of the label set); the mean over
    labels of log P(decision); and, from exit 2 on, the largest |p - p of the exit before| and 1
    where the label set is that of the exit before, else 0.
    """
    return min(SMALLEST_MARGINS, labels) + 2 + (2 if number > 1 else 0)


def add_gate(writer: GraphWriter, gate: Gate, evidence: str, name: str) -> str:
    """Append the model to its evidence: float32 (batch, F) -> float32 (batch,) in [0, 1]."""

    def constant(part: str, value: np.ndarray) -> str:
        return writer.constant(f"gate_{part}", value.astype(np.float32))

    # the mean is taken off first: folded into the bias, it would cancel in float32
    centred = writer.node("Sub", [evidence, constant("mean", gate.mean)], "centred")
    weights = constant("weights", gate.weights / gate.scale)
    weighted = writer.node("MatMul", [centred, weights], "weighted")
    logit = writer.node("Add", [weighted, constant("bias", np.array(gate.bias))], "gate_logit")
    return writer.node("Sigmoid", [logit], name)
