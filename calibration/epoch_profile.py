"""The profile of one training epoch: how every exit does on held-out rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.special import expit

from calibration.quality import micro_f1
from calibration.resampling import Resamples
from calibration.training_config import Phase
from calibration.transport import exact_w, sliced_w

PROJECTIONS = 50
PARTS = 2  # sub-samples of an exact distance


@dataclass(frozen=True)
class ExitState:
    """One exit on the held-out rows, before any calibration of its probabilities.

    exit : its number, from 1
    loss : binary cross-entropy, mean over rows and labels
    micro_f1 : of the labels with a probability of at least one half
    w_labels, w_labels_sliced : W-distances of the probabilities to the true labels, exact on
        sub-samples of at most 500 rows, and sliced on all rows; roots, not squared
    w_teacher : the exact one to the probabilities of the last exit after the same epoch
    """

    exit: int
    loss: float
    micro_f1: float
    w_labels: float
    w_labels_sliced: float
    w_teacher: float


@dataclass(frozen=True)
class EpochProfile:
    """What one epoch has reached.

    epoch : its number, from 1
    phase : what the epoch trained
    train_loss : mean weighted loss over its training rows, as the weights were while it ran
    exits : one state per exit, in the order of the exits
    """

    epoch: int
    phase: Phase
    train_loss: float
    exits: tuple[ExitState, ...]

    def held_out_loss(self, weights: Sequence[float]) -> float:
        """Weighted sum of the exits' losses, which early stopping watches."""
        return sum(weight * state.loss for weight, state in zip(weights, self.exits, strict=True))

    def line(self) -> str:
        """Describe the epoch in one line, for the eyes of who waits."""
        f1 = " ".join(f"{state.micro_f1:.3f}" for state in self.exits)
        distance = " ".join(f"{state.w_labels:.3f}" for state in self.exits)
        return (
            f"epoch {self.epoch} ({self.phase}), loss {self.train_loss:.4f}; by exit, micro-F1 "
            f"{f1}, W to labels {distance}"
        )


def profile_epoch(
    epoch: int,
    phase: Phase,
    train_loss: float,
    logits: Sequence[np.ndarray],
    labels: np.ndarray,
    seed: int,
) -> EpochProfile:
    """Measure every exit.

    Parameters
    ----------
    logits : K arrays (n, L), of the held-out rows
    labels : bool (n, L)
    seed : draws the sub-samples and projections, the same ones in every epoch
    """
    resamples = Resamples.of(len(labels), seed, parts=PARTS, draws=0)
    states = [
        _state(number, of_exit, logits[-1], labels, resamples)
        for number, of_exit in enumerate(logits, 1)
    ]
    return EpochProfile(epoch, phase, train_loss, tuple(states))


def as_records(epochs: Sequence[EpochProfile]) -> list[dict[str, Any]]:
    """Plain values, for JSON and checkpoints."""
    return [asdict(epoch) | {"exits": [asdict(state) for state in epoch.exits]} for epoch in epochs]


def from_records(records: Sequence[dict[str, Any]]) -> list[EpochProfile]:
    """Undo `as_records`."""
    return [
        EpochProfile(**{**record, "exits": tuple(ExitState(**state) for state in record["exits"])})
        for record in records
    ]


def _state(
    number: int, logits: np.ndarray, last: np.ndarray, labels: np.ndarray, resamples: Resamples
) -> ExitState:
    wide = logits.astype(np.float64)
    truth = labels.astype(np.float64)
    probabilities, teacher = expit(wide), expit(last.astype(np.float64))  # (n, L)

    def exact(target: np.ndarray) -> float:
        return float(np.mean([exact_w(probabilities[r], target[r]) for r in resamples.parts]))

    return ExitState(
        exit=number,
        # log(1 + exp(z)) - y z, which does not overflow
        loss=float(np.mean(np.logaddexp(0, wide) - truth * wide)),
        micro_f1=micro_f1(probabilities >= 0.5, labels),
        w_labels=exact(truth),
        w_labels_sliced=sliced_w(probabilities, truth, resamples.seed, PROJECTIONS),
        w_teacher=exact(teacher),
    )
