"""What a layer's head answers to rows whose features are cached: the served nodes, run offline."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from calibration.probability import calibrate_head
from models.graph import STAGE_OUTPUTS
from models.heads import HeadCalibration, HeadLayers, attach_heads, head_model, output_name
from models.runtime import Answers, open_session

BATCH = 1024


@dataclass(frozen=True)
class LayerHead:
    """A calibrated head.

    layers : None where the layer's column is logits already
    """

    layers: HeadLayers | None
    calibration: HeadCalibration


def calibrated_head(column: np.ndarray, labels: np.ndarray, layers: HeadLayers | None) -> LayerHead:
    """Calibrate a head on rows that it was not trained on.

    Parameters
    ----------
    column : (n, C), the features or logits of the tune split
    labels : bool (n, L), of the same rows
    """
    session = open_session(head_model(column.shape[1], layers).SerializeToString())
    logits = np.concatenate(
        [session.run(None, {"feature": part})[0] for part in _batches(column)]
    )  # (n, L)
    return LayerHead(layers, calibrate_head(logits, labels))


def layer_answers(column: np.ndarray, head: LayerHead) -> Answers:
    """Answers to n rows, whose column is (n, C)."""
    graph = attach_heads(head_model(column.shape[1], head.layers), [head.calibration])
    session = open_session(graph.SerializeToString())
    names = [output_name(1, kind) for kind in STAGE_OUTPUTS]
    return Answers.concatenate(
        [Answers(*session.run(names, {"feature": part})) for part in _batches(column)]
    )


def _batches(column: np.ndarray) -> list[np.ndarray]:
    return [column[start : start + BATCH] for start in range(0, len(column), BATCH)]
