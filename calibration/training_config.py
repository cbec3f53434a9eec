"""How a multi-exit network is trained: what each phase of the epochs trains, and how fast."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from models.errors import CalibrationError

Schedule = Literal["mixed", "joint", "backbone"]
Phase = Literal["backbone", "joint", "heads"]
"""backbone: the last exit alone; joint: all exits together; heads: the auxiliary heads alone."""

LAST_PHASE: dict[Schedule, Phase] = {"mixed": "joint", "joint": "joint", "backbone": "heads"}

WARM_UP = 0.2  # share of a phase until the peak
FIRST_RATE = 1 / 25  # of the peak
LAST_RATE = FIRST_RATE / 10_000


@dataclass(frozen=True)
class TrainingConfig:
    """AdamW; every phase has its own one-cycle learning rate (Smith and Topin, 2019, cosine arcs).

    The schedule `mixed` trains the last exit alone for `backbone_share` of the epochs, then all
    exits together; it is among the regimes compared by Kubaty et al., "How to train your
    multi-exit model?", 2024. `backbone` trains the last exit alone for the same share, then the
    auxiliary heads on the frozen rest. `joint` trains all exits together from the start.
    """

    epochs: int = 8
    batch: int = 128  # rows
    peak_learning_rate: float = 4e-3
    head_rate: float = 1.0  # the heads learn this many times faster than the stages
    weight_decay: float = 0.02
    schedule: Schedule = "mixed"
    backbone_share: float = 0.5  # of the epochs
    aux_weight: float | tuple[float, ...] = 1.0
    """Weight of every auxiliary exit's loss beside the last one's 1, or one weight per exit."""
    held_out: float = 0.1  # share of the fit split that is watched, not trained on
    patience: int | None = None
    """A phase ends after so many epochs without a better held-out loss, and its best epoch's
    weights are kept. None: it runs to its end, and its last weights are kept."""
    device: Literal["cpu", "cuda"] = "cpu"
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch", "peak_learning_rate", "head_rate", "patience"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise CalibrationError(f"{name} is {value}: expected a number above 0")
        for name in ("backbone_share", "held_out"):
            if not 0 < getattr(self, name) < 1:
                raise CalibrationError(
                    f"{name} is {getattr(self, name)}: expected a share between 0 and 1, both "
                    "excluded"
                )
        weights = self.aux_weight if isinstance(self.aux_weight, tuple) else (self.aux_weight,)
        if min(weights, default=-1.0) < 0 or not all(map(math.isfinite, weights)):
            raise CalibrationError(f"aux_weight is {self.aux_weight}: expected numbers from 0 on")

    @property
    def phases(self) -> tuple[tuple[Phase, int], ...]:
        """The phases in their order, and the epochs that each has at most."""
        last = LAST_PHASE[self.schedule]
        if self.schedule == "joint" or self.epochs == 1:
            return ((last, self.epochs),)
        first = min(max(round(self.backbone_share * self.epochs), 1), self.epochs - 1)
        return (("backbone", first), (last, self.epochs - first))

    def exit_weights(self, depth: int) -> tuple[float, ...]:
        """Weight of every exit's loss where all exits are trained.

        Raises
        ------
        CalibrationError
            When the weights given are not one per exit, or the last exit's is 0.
        """
        given = self.aux_weight
        weights = given if isinstance(given, tuple) else (*[given] * (depth - 1), 1.0)
        if len(weights) != depth:
            raise CalibrationError(
                f"aux_weight has {len(weights)} weights, but the network has {depth} exits: "
                "expected one number for all, or one per exit, the last one's included"
            )
        if weights[-1] <= 0:
            raise CalibrationError(
                "aux_weight gives the last exit 0: expected a weight above 0, its loss trains the "
                "whole network"
            )
        return weights

    def phase_weights(self, phase: Phase, depth: int) -> tuple[float, ...]:
        """Weight of every exit's loss in one phase; see `exit_weights` for the errors."""
        weights = self.exit_weights(depth)
        if phase == "backbone":
            return (*[0.0] * (depth - 1), weights[-1])
        if phase == "heads":
            if not any(weights[:-1]):
                raise CalibrationError(
                    "aux_weight leaves the auxiliary heads untrained, which the schedule "
                    "`backbone` trains last: expected a weight above 0, or the schedule `joint`"
                )
            return (*weights[:-1], 0.0)
        return weights

    def learning_rate(self, done: float) -> float:
        """Learning rate of the stages after a share `done` of a phase."""
        if done < WARM_UP:
            return self.peak_learning_rate * _arc(FIRST_RATE, 1.0, done / WARM_UP)
        return self.peak_learning_rate * _arc(1.0, LAST_RATE, (done - WARM_UP) / (1 - WARM_UP))


def _arc(start: float, end: float, share: float) -> float:
    """From start to end along half a cosine."""
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2
