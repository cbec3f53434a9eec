"""MLServer's runtime over the whole model; the server's adaptive batching joins requests before it.

MLServer loads this file from the folder of the model, beside `peer_model.py`.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
from mlserver import MLModel
from mlserver.codecs import NumpyCodec, StringCodec
from mlserver.types import InferenceRequest, InferenceResponse

sys.path.insert(0, str(Path(__file__).parent))
from peer_model import FOLDER, PeerModel


class Peer(MLModel):
    """Answers probabilities and label sets of rows."""

    async def load(self) -> bool:
        """Open the model."""
        self._model = PeerModel(Path(os.environ[FOLDER]))
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Of one batch."""
        given = payload.inputs[0]
        if given.datatype == "BYTES":
            probabilities, labels = self._model.answer(StringCodec.decode_input(given))
        else:
            probabilities, labels = self._model.answer(NumpyCodec.decode_input(given))
        outputs = [
            NumpyCodec.encode_output("probabilities", probabilities.astype(np.float32)),
            NumpyCodec.encode_output("labels", labels),
        ]
        return InferenceResponse(model_name=self.name, outputs=outputs)
