r"""Evidence that live rows lose more than was promised: one e-process per promise.

Every row compared gives each promise an excess x, whose mean is at most zero while the promise
holds with limit c (early: the label set that was answered; full: that of the last exit):

* a mean loss: x = loss(early, full) - c;
* micro-f1: x = (1 - c) D - 2 c TP, D the labels that differ, TP those of both, since
  F1 = 2 TP / (2 TP + D) >= 1 - c is E[(1 - c) D - 2 c TP] <= 0;
* a label's positives: x = [the early set misses it] - c, over rows whose full set has it.

The mean of e-processes is one too, so that all promises are watched together without a correction.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np

from models.live_reference import Limit
from models.manifest import GuaranteeKind, Manifest
from models.set_losses import set_loss
from service.e_process import EProcess

RECENT = 1000
"""Rows whose mean loss is shown."""


class Evidence:
    """What the rows compared so far say about the promises of one bundle.

    Parameters
    ----------
    limits : of the bundle's reference
    manifest : whose certificate may promise labels one by one, and how many labels there are
    """

    def __init__(self, limits: Sequence[Limit], manifest: Manifest) -> None:
        self._promises = [_Promise(limit, len(manifest.labels)) for limit in limits]
        self._labels = _Labels(manifest)
        self.rows = 0

    @property
    def value(self) -> float:
        """The e-value: how many times whoever bets against the promises has won his stake."""
        parts = [[promise.process for promise in self._promises], self._labels.processes]
        means = [np.mean([process.value for process in part]) for part in parts if part]
        return float(np.mean(means)) if means else 1.0

    @property
    def limits(self) -> dict[GuaranteeKind, float]:
        """What the mean loss may be at most."""
        return {promise.loss: promise.limit for promise in self._promises}

    @property
    def losses(self) -> dict[GuaranteeKind, float]:
        """Mean loss of the last `RECENT` rows; 0 before the first."""
        return {promise.loss: promise.recent_loss for promise in self._promises}

    def see(self, early: np.ndarray, full: np.ndarray) -> None:
        """One row, drawn before anybody knew where it would leave: its label sets, bool (L,)."""
        for promise in self._promises:
            promise.see(early, full)
        self._labels.see(early, full)
        self.rows += 1

    def state(self) -> dict[str, Any]:
        """What `restore` takes, as JSON can hold it."""
        promises = {promise.loss: promise.process.state() for promise in self._promises}
        labels = [process.state() for process in self._labels.processes]
        return {"rows": self.rows, "promises": promises, "labels": labels}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where another was that watched the same bundle.

        Raises
        ------
        KeyError, TypeError, ValueError
            When the state is that of another kind of bundle, or none.
        """
        for promise in self._promises:
            promise.process.restore(state["promises"][promise.loss])
        for process, saved in zip(self._labels.processes, state["labels"], strict=True):
            process.restore(saved)
        self.rows = int(state["rows"])


class _Promise:
    def __init__(self, limit: Limit, labels: int) -> None:
        self.loss, self.limit = limit.guarantee, limit.mean_loss
        least = -2 * self.limit * labels if self.loss == "micro-f1" else -self.limit
        self.process = EProcess(least)
        self._recent: deque[tuple[float, float]] = deque(maxlen=RECENT)

    def see(self, early: np.ndarray, full: np.ndarray) -> None:
        if self.loss == "micro-f1":
            hits, differing = float((early & full).sum()), float((early ^ full).sum())
            self._recent.append((differing, 2 * hits + differing))
            self.process.see((1 - self.limit) * differing - 2 * self.limit * hits)
            return
        loss = float(set_loss(self.loss, early[None], full[None])[0])
        self._recent.append((loss, 1.0))
        self.process.see(loss - self.limit)

    @property
    def recent_loss(self) -> float:
        """For micro-f1 a quotient of sums, 1 - F1; else a mean."""
        if not self._recent:
            return 0.0
        lost, of = np.sum(self._recent, axis=0)
        return float(lost / of) if of else 0.0


class _Labels:
    """The labels that are promised one by one, where that is towards the model."""

    def __init__(self, manifest: Manifest) -> None:
        certificate = manifest.certificate
        promised = {floor.label for floor in certificate.label_floor if floor.mean_loss is not None}
        if certificate.promises[0].against == "labels":
            promised = set()  # live rows have no true labels
        self._epsilon = certificate.label_epsilon or 0.0
        self._places = [k for k, name in enumerate(manifest.labels) if name in promised]
        self.processes = [EProcess(-self._epsilon) for _ in self._places]

    def see(self, early: np.ndarray, full: np.ndarray) -> None:
        for place, process in zip(self._places, self.processes, strict=True):
            if full[place]:
                process.see(float(not early[place]) - self._epsilon)
