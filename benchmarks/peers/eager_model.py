"""A multi-exit network as research code runs it: in torch, a batch from its first layer to its end.

Rows that leave are taken out behind each stage; the batch is answered when its last row is.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from eager_graph import EagerGraph
from peer_model import DEVICE, ROUTE, STAGE, PeerInputs


class EagerModel:
    """Stands for `PeerModel`: same rows, same answers, by stages."""

    def __init__(self, folder: Path) -> None:
        torch.set_num_threads(len(os.sched_getaffinity(0)))
        route = json.loads((folder / ROUTE).read_text(encoding="utf-8"))
        self._thresholds: list[float] = route["thresholds"]
        self._carries: list[list[str]] = [*route["carries"], []]
        self._inputs = PeerInputs(folder)
        self._device = os.environ.get(DEVICE, "cpu")
        self.labels = self._inputs.labels
        self._stages = [
            EagerGraph(onnx.load(folder / STAGE.format(number + 1)), self._device)
            for number in range(len(self._carries))
        ]

    @torch.inference_mode()
    def answer(self, rows: Sequence[Any] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Float32 probabilities and bool label sets, (b, L) each."""
        feeds = {name: torch.from_numpy(array) for name, array in self._inputs.encode(rows).items()}
        waiting = torch.arange(len(rows))
        probabilities = torch.zeros(len(rows), len(self.labels))
        sets = torch.zeros(len(rows), len(self.labels), dtype=torch.bool)
        for stage, threshold, carry in zip(
            self._stages, self._thresholds, self._carries, strict=True
        ):
            made = stage(feeds)
            probability, chosen, score = (made[name] for name in stage.outputs[:3])
            leaves = score >= threshold
            probabilities[waiting[leaves]] = probability[leaves]
            sets[waiting[leaves]] = chosen[leaves]
            waiting = waiting[~leaves]
            if not len(waiting):
                break
            known = {**feeds, **made}
            feeds = {name: known[name][~leaves] for name in carry}
        return probabilities.cpu().numpy(), sets.cpu().numpy()
