"""What may be promised: a loss per row, and against what it is counted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from models.errors import CalibrationError

Loss = Literal["set-agreement", "sample-f1"]
Against = Literal["model", "labels"]


@dataclass(frozen=True)
class Guarantee:
    """The promise "the policy loses at most epsilon, with probability at least 1 - delta".

    loss : set-agreement, a row is lost when its label set is another one; sample-f1, a row loses
        1 - F1 of its label set
    against : model, the loss of the policy's answers towards the full model's; labels, how much
        larger the policy's loss towards the true labels is than the full model's (its regret)
    """

    loss: Loss = "set-agreement"
    against: Against = "model"
    epsilon: float = 0.02
    delta: float = 0.05

    def __post_init__(self) -> None:
        for name, level in (("epsilon", self.epsilon), ("delta", self.delta)):
            if not 0 < level < 1:
                raise CalibrationError(
                    f"{name} is {level}: expected a number between 0 and 1, both excluded"
                )

    @property
    def lowest(self) -> float:
        """The smallest loss a row can have: a policy may be better than the full model."""
        return 0.0 if self.against == "model" else -1.0

    @property
    def binary(self) -> bool:
        """Whether every row's loss is 0 or 1."""
        return self.loss == "set-agreement" and self.against == "model"

    def row_losses(self, answers: np.ndarray, full: np.ndarray, truth: np.ndarray) -> np.ndarray:
        """Loss of every row in [lowest, 1]: label sets bool (n, L) -> float (n,).

        Parameters
        ----------
        answers, full, truth : label sets of the policy, of the full model, and the true ones
        """
        if self.against == "model":
            return set_loss(self.loss, answers, full)
        regret: np.ndarray = set_loss(self.loss, answers, truth) - set_loss(self.loss, full, truth)
        return regret


@dataclass(frozen=True)
class GuaranteeOptions:
    """What the user says of the promise; what is None follows from the model.

    A model with logits of its own is the measure by default: its label sets are to be kept. Where
    all heads are trained here, the true labels are, and the loss is a row's F1.
    """

    loss: Loss | None = None
    against: Against | None = None
    epsilon: float = 0.02
    delta: float = 0.05

    def __post_init__(self) -> None:
        self.resolved(has_head=True)  # levels outside (0, 1) are refused before any work

    def resolved(self, has_head: bool) -> Guarantee:
        """The promise for a model with or without logits of its own."""
        against = self.against or ("model" if has_head else "labels")
        loss = self.loss or ("set-agreement" if against == "model" else "sample-f1")
        return Guarantee(loss, against, self.epsilon, self.delta)


def set_loss(loss: Loss, answers: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Loss of each answer towards its target: bool (n, L) twice -> float (n,) in [0, 1]."""
    if loss == "set-agreement":
        differ: np.ndarray = (answers != target).any(axis=1)
        return differ.astype(float)
    return np.asarray(1.0 - sample_f1(answers, target))


def pairwise_loss(loss: Loss, answers: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Loss of every answer towards every target: bool (n, L), (m, L) -> float (n, m) in [0, 1]."""
    if loss == "set-agreement":
        _, sets = np.unique(np.concatenate([answers, target]), axis=0, return_inverse=True)
        return np.asarray(sets[: len(answers), None] != sets[None, len(answers) :], float)
    hits = answers.astype(np.float32) @ target.T.astype(np.float32)
    return 1.0 - _f1(hits, answers.sum(axis=1)[:, None], target.sum(axis=1)[None])


def sample_f1(answers: np.ndarray, target: np.ndarray) -> np.ndarray:
    """F1 of each label set, bool (n, L) twice -> float (n,); F1 of nothing against nothing is 1."""
    return _f1((answers & target).sum(axis=1), answers.sum(axis=1), target.sum(axis=1))


def _f1(hits: np.ndarray, found: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    total = found + wanted
    return np.asarray(np.where(total > 0, 2.0 * hits / np.maximum(total, 1), 1.0))
