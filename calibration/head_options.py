"""How the heads are trained."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class HeadOptions:
    """How the heads are trained (AdamW, early stopping on a held-out part of the fit split)."""

    hidden: int = 256  # units of the hidden layer; 0 makes the head linear
    distill: float = 0.5  # weight of the teacher's probabilities beside the labels, where given
    batch: int = 512
    learning_rate: float = 2e-3
    weight_decay: float = 0.01
    dropout: float = 0.2
    max_epochs: int = 30
    patience: int = 3  # epochs without improvement
    held_out: float = 0.1  # of the fit split
    seed: int = 0
