"""What may be promised: losses, against whom they are counted, how much, with which probability."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Literal

import numpy as np

from models.errors import CalibrationError
from models.manifest import GuaranteeKind
from models.set_losses import set_loss

Against = Literal["model", "labels"]


def check_level(name: str, level: float) -> None:
    """Refuse a level that is not a number between 0 and 1.

    Raises
    ------
    CalibrationError
        With the name and the value.
    """
    if not 0 < level < 1:
        raise CalibrationError(
            f"{name} is {level}: expected a number between 0 and 1, both excluded"
        )


@dataclass(frozen=True)
class Guarantee:
    """The promise "the policy loses at most epsilon".

    loss : set-agreement, the share of rows whose label set is another one; hamming, the share of
        label decisions that are others; sample-f1, 1 - the mean F1 of a row's label set; micro-f1,
        1 - the F1 of all label decisions together
    against : model, the loss of the policy's answers towards the full model's; labels, how much
        larger the policy's loss towards the true labels is than the full model's (its regret)
    """

    loss: GuaranteeKind = "set-agreement"
    against: Against = "model"
    epsilon: float = 0.02

    def __post_init__(self) -> None:
        check_level("epsilon", self.epsilon)

    @property
    def binary(self) -> bool:
        """Whether every row's loss is 0 or 1."""
        return self.loss == "set-agreement" and self.against == "model"

    def row_losses(self, answers: np.ndarray, full: np.ndarray, truth: np.ndarray) -> np.ndarray:
        """Loss of every row; its mean is the loss: label sets bool (n, L) -> float (n,).

        Parameters
        ----------
        answers, full, truth : label sets of the policy, of the full model, and the true ones
        """
        if self.against == "model":
            return set_loss(self.loss, answers, full)
        regret: np.ndarray = set_loss(self.loss, answers, truth) - set_loss(self.loss, full, truth)
        return regret


@dataclass(frozen=True)
class Guarantees:
    """All that is promised at once, with probability 1 - delta for everything together.

    label_epsilon : beside the promises, each label loses at most this share of its positives;
        None: labels are not promised one by one
    """

    promises: tuple[Guarantee, ...] = (Guarantee(),)
    delta: float = 0.05
    label_epsilon: float | None = None

    def __post_init__(self) -> None:
        check_level("delta", self.delta)
        if self.label_epsilon is not None:
            check_level("label-epsilon", self.label_epsilon)
        twice = [loss for loss, n in Counter(p.loss for p in self.promises).items() if n > 1]
        if twice:
            levels = [p.epsilon for p in self.promises if p.loss == twice[0]]
            raise CalibrationError(
                f"--guarantee {twice[0]} is given {len(levels)} times, with epsilon "
                f"{' and '.join(map(str, levels))}: these contradict each other; give it once"
            )

    @property
    def against(self) -> Against:
        """Towards whom every loss is counted."""
        return self.promises[0].against

    def lost(self, answers: np.ndarray, full: np.ndarray, truth: np.ndarray) -> np.ndarray:
        """Rows on which an answer loses anything, by any of the losses: bool (n,)."""
        losses = [p.row_losses(answers, full, truth) > 0 for p in self.promises]
        return np.asarray(np.any(losses, axis=0))


@dataclass(frozen=True)
class GuaranteeOptions:
    """What the user says of the promises; what is left out follows from the model.

    A model with logits of its own is the measure by default: its label sets are to be kept. Where
    all heads are trained here, the true labels are, and the loss is a row's F1.

    epsilons : one for all losses, or one per loss in their order
    """

    losses: tuple[GuaranteeKind, ...] = ()
    against: Against | None = None
    epsilons: tuple[float, ...] = (0.02,)
    delta: float = 0.05
    label_epsilon: float | None = None

    def __post_init__(self) -> None:
        if len(self.epsilons) not in {1, max(len(self.losses), 1)}:
            raise CalibrationError(
                f"--epsilon is given {len(self.epsilons)} times for {len(self.losses)} "
                "--guarantee: expected one for all, or one for each in the same order"
            )
        self.resolved(has_head=True)  # mistakes are told before any work

    def resolved(self, has_head: bool) -> Guarantees:
        """The promises for a model with or without logits of its own."""
        against = self.against or ("model" if has_head else "labels")
        usual: GuaranteeKind = "set-agreement" if against == "model" else "sample-f1"
        losses = self.losses or (usual,)
        epsilons = self.epsilons * len(losses) if len(self.epsilons) == 1 else self.epsilons
        promises = tuple(
            Guarantee(loss, against, epsilon)
            for loss, epsilon in zip(losses, epsilons, strict=True)
        )
        return Guarantees(promises, self.delta, self.label_epsilon)
