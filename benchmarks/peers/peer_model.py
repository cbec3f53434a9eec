"""The model that the peers serve: rows as clients send them, to probabilities and label sets.

Needs NumPy and ONNX Runtime alone (tokenizers where rows are texts), so that it runs in the
environment of any server. Its folder is written by `serving_models.write_peer`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

FACTS, MODEL, TOKENIZER = "peer.json", "model.onnx", "tokenizer.json"
ROUTE, STAGE = "route.json", "stage{}.onnx"
"""Thresholds and carries, and the stages, where the model is served by stages."""
FOLDER = "PEER_FOLDER"
"""Environment variable that names the folder."""
DEVICE = "PEER_DEVICE"
"""Environment variable: `cpu`, or `cuda`."""
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


class PeerInputs:
    """Makes the model's inputs of rows: a batch is as long as its longest text.

    Parameters
    ----------
    folder : see the module
    """

    def __init__(self, folder: Path) -> None:
        facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
        self.labels: list[str] = facts["labels"]
        self.names: list[str] = facts["inputs"]
        self._tokenizer: Any = None
        self._mean = np.array(facts.get("mean") or 0.0)
        self._scale = np.array(facts.get("scale") or 1.0)
        self._standardised = bool(facts.get("mean"))
        if (folder / TOKENIZER).exists():
            from tokenizers import Tokenizer

            self._tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
            self._tokenizer.enable_truncation(facts["max_tokens"])
            self._tokenizer.enable_padding(pad_id=facts["pad_id"])

    def encode(self, rows: Sequence[Any] | np.ndarray) -> dict[str, np.ndarray]:
        """By the inputs' names: numbers as float32 (b, ...), texts as int64 (b, T) each."""
        if self._tokenizer is None:
            if self._standardised:
                rows = (np.asarray(rows) - self._mean) / self._scale
            return {self.names[0]: np.ascontiguousarray(rows, np.float32)}
        encodings = self._tokenizer.encode_batch_fast(list(rows))
        found = {
            "input_ids": [encoding.ids for encoding in encodings],
            "attention_mask": [encoding.attention_mask for encoding in encodings],
            "token_type_ids": [encoding.type_ids for encoding in encodings],
        }
        return {name: np.array(found[name], np.int64) for name in self.names}


class PeerModel:
    """One ONNX Runtime session over the whole model, with all cores that the process may use.

    Raises
    ------
    RuntimeError
        When ONNX Runtime has fallen back to another provider.
    """

    def __init__(self, folder: Path) -> None:
        import onnxruntime

        self._inputs = PeerInputs(folder)
        self.labels = self._inputs.labels
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = len(os.sched_getaffinity(0))
        path = str(folder / MODEL)
        provider = PROVIDERS[os.environ.get(DEVICE, "cpu")]
        self._session = onnxruntime.InferenceSession(path, options, providers=[provider])
        found = self._session.get_providers()[0]
        if found != provider:
            raise RuntimeError(f"found {found}, expected {provider}")
        self._outputs = [output.name for output in self._session.get_outputs()][:2]

    def answer(self, rows: Sequence[Any] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Float32 probabilities and bool label sets, (b, L) each."""
        probabilities, labels = self._session.run(self._outputs, self._inputs.encode(rows))
        return probabilities, labels


def document(
    labels: Sequence[str], probabilities: np.ndarray, sets: np.ndarray
) -> list[dict[str, Any]]:
    """What a client gets of every row: the names of its set, and all probabilities."""
    return [
        {
            "labels": [labels[place] for place in np.flatnonzero(chosen)],
            "probabilities": values,
        }
        for chosen, values in zip(sets, probabilities.tolist(), strict=True)
    ]
