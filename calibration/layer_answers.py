"""What heads answer to rows whose features are cached: the served nodes, run offline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from calibration.probability import calibrate_head
from models.graph import STAGE_OUTPUTS
from models.heads import (
    HeadCalibration,
    HeadLayers,
    attach_heads,
    chain_model,
    head_model,
    output_name,
)
from models.runtime import Answers, open_session
from models.scores import ScoreRule

BATCH = 1024


@dataclass(frozen=True)
class LayerHead:
    """A calibrated head.

    layers : None where the layer's column is logits already
    """

    layers: HeadLayers | None
    calibration: HeadCalibration

    def scored_by(self, rule: ScoreRule) -> LayerHead:
        """The same head with another score."""
        return replace(self, calibration=replace(self.calibration, score=rule))


def calibrated_head(column: np.ndarray, labels: np.ndarray, layers: HeadLayers | None) -> LayerHead:
    """Calibrate a head on rows that it was not trained on.

    Parameters
    ----------
    column : (n, C), the features or logits of the tune split
    labels : bool (n, L), of the same rows
    """
    return LayerHead(layers, calibrate_head(head_logits(column, layers), labels))


def head_logits(column: np.ndarray, layers: HeadLayers | None) -> np.ndarray:
    """Logits of n rows, before any calibration: (n, C) -> float32 (n, L)."""
    session = open_session(head_model(column.shape[1], layers).SerializeToString())
    return np.concatenate([session.run(None, {"feature": part})[0] for part in _batches(column)])


def layer_answers(column: np.ndarray, head: LayerHead) -> Answers:
    """Answers of one layer alone to n rows, whose column is (n, C).

    Without an exit before it, a score that looks back is the margin, and no label is frozen.
    """
    if head.calibration.score.looks_back:
        head = head.scored_by(ScoreRule())
    return chain_answers([column], [head])[0]


def chain_answers(columns: Sequence[np.ndarray], heads: Sequence[LayerHead]) -> list[Answers]:
    """Answers of a chain of K exits to the same n rows.

    Parameters
    ----------
    columns : K, in the order of the exits, (n, C) each
    heads : K; exit k's head reads column k and, where its score looks back, exit k - 1
    """
    names = [
        output_name(number, kind) for number in range(1, len(heads) + 1) for kind in STAGE_OUTPUTS
    ]
    tensors = chain_tensors(columns, heads, names)
    width = len(STAGE_OUTPUTS)
    return [Answers(*tensors[k : k + width]) for k in range(0, len(tensors), width)]


def chain_tensors(
    columns: Sequence[np.ndarray], heads: Sequence[LayerHead], names: Sequence[str]
) -> list[np.ndarray]:
    """Some tensors of a chain of exits, by name, inner ones too: each (n, ...).

    Parameters
    ----------
    columns, heads : as for `chain_answers`
    """
    import onnx

    widths = [column.shape[1] for column in columns]
    alone = chain_model(widths, [head.layers for head in heads])
    graph = attach_heads(alone, [head.calibration for head in heads])
    shown = {value.name for value in graph.graph.output}
    graph.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in shown)
    session = open_session(graph.SerializeToString())
    inputs = [value.name for value in session.get_inputs()]
    parts = [
        session.run(list(names), dict(zip(inputs, batch, strict=True)))
        for batch in zip(*map(_batches, columns), strict=True)
    ]
    return [np.concatenate(tensor) for tensor in zip(*parts, strict=True)]


def _batches(column: np.ndarray) -> list[np.ndarray]:
    return [column[start : start + BATCH] for start in range(0, len(column), BATCH)]
