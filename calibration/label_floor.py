"""Promises label by label, and the labels that have too few positives for any promise.

An average over all labels hides a rare one that the early exits never find. Here each label loses
at most a share of its positives: the rows that have it (against labels: truly; against the model:
in the full model's answer).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from calibration.guarantee import Against, Guarantee
from calibration.p_values import betting_p_value, binomial_p_value, fewest_rows
from models.manifest import LabelFloor

SPREADS = 3  # standard deviations that a number of positives may fall below what is expected


@dataclass(frozen=True)
class LabelTests:
    """The tests of single labels on one split.

    positive : bool (n, L), the rows that count for a label
    tested : int (m,), the labels with enough positives, which does not depend on any policy
    needed : the fewest positives that allow a promise
    expected : float (L,), positives to be expected
    required : how many have to be expected of a label for it to be tested
    """

    against: Against
    epsilon: float
    delta: float
    positive: np.ndarray
    full: np.ndarray
    tested: np.ndarray
    needed: int
    expected: np.ndarray
    required: int

    @classmethod
    def of(
        cls,
        against: Against,
        epsilon: float,
        delta: float,
        full: np.ndarray,
        truth: np.ndarray,
        shares: np.ndarray | None = None,
    ) -> LabelTests:
        """Tests against the full model's label sets or the true ones, bool (n, L) each.

        Parameters
        ----------
        shares : float (L,), share of positives on other rows: labels are tested that will hardly
            have fewer than they need here. None: that have enough here, which keeps each label's
            promise exact, but not quite that of all together, where one label's number of
            positives goes with another's losses
        """
        positive = full if against == "model" else truth
        needed = fewest_rows(Guarantee("set-agreement", against, epsilon), delta, truth.shape[1])
        expected = positive.sum(axis=0) if shares is None else len(truth) * shares
        # of a label with e positives to be expected, e - spreads * sqrt(e) have to be enough
        spreads = 0 if shares is None else SPREADS
        required = math.ceil(((spreads + math.sqrt(spreads**2 + 4 * needed)) / 2) ** 2)
        tested = np.flatnonzero(expected >= required)
        return cls(against, epsilon, delta, positive, full, tested, needed, expected, required)

    def losses(self, label: int, answers: np.ndarray) -> np.ndarray:
        """Loss of each positive of a label, in [-1, 1]: float (positives,)."""
        rows = self.positive[:, label]
        missed = ~answers[rows, label]
        if self.against == "model":
            return np.asarray(missed, float)
        return np.asarray(missed.astype(float) - ~self.full[rows, label])

    def p_value(self, answers: np.ndarray) -> float:
        """p-value of "some tested label loses more": the largest of the labels' own."""
        return max((self._p_value(label, answers) for label in self.tested.tolist()), default=0.0)

    def floor(self, answers: np.ndarray | None, names: tuple[str, ...]) -> tuple[LabelFloor, ...]:
        """What is promised of every label; with no answers, nothing is."""
        promised = set() if answers is None else set(self.tested.tolist())
        return tuple(
            LabelFloor(
                label=name,
                positives=int(self.expected[label]),
                needed=self.required,
                mean_loss=float(self.losses(label, answers).mean())
                if answers is not None and label in promised
                else None,
            )
            for label, name in enumerate(names)
        )

    def _p_value(self, label: int, answers: np.ndarray) -> float:
        losses = self.losses(label, answers)
        if self.against == "model":
            return binomial_p_value(int(losses.sum()), len(losses), self.epsilon)
        return betting_p_value(losses - self.epsilon, 1 - self.epsilon, self.delta)
