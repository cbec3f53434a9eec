"""A plain BentoML service over a model, with BentoML's adaptive batching.

PEER_BATCH and PEER_LATENCY are the batching's two settings, 0 rows for none at all; PEER_KIND says
what rows are, `text` or `numbers`; PEER_ENGINE what runs the model, `onnx` or `eager`.
"""
# no postponed annotations: BentoML reads them as types

import os
from pathlib import Path
from typing import Annotated, Any

import bentoml
import numpy as np
from peer_model import FOLDER, PeerModel, document

IS_TEXT = os.environ["PEER_KIND"] == "text"
Rows = list[str] if IS_TEXT else Annotated[np.ndarray, bentoml.validators.DType("float32")]
BATCH, LATENCY = int(os.environ["PEER_BATCH"]), int(os.environ["PEER_LATENCY"])
BATCHING: dict[str, Any] = (
    {"batchable": True, "max_batch_size": BATCH, "max_latency_ms": LATENCY} if BATCH else {}
)
SECONDS = 600
"""Before BentoML itself gives a request up."""


def open_model() -> Any:
    """What answers rows."""
    folder = Path(os.environ[FOLDER])
    if os.environ["PEER_ENGINE"] == "onnx":
        return PeerModel(folder)
    from eager_model import EagerModel

    return EagerModel(folder)


@bentoml.service(workers=1, traffic={"timeout": SECONDS})
class Peer:
    """Answers label sets and probabilities of rows."""

    def __init__(self) -> None:
        self._model = open_model()

    @bentoml.api(**BATCHING)
    def predict(self, rows: Rows) -> list[dict[str, Any]]:
        """A document for every row."""
        return document(self._model.labels, *self._model.answer(rows))
