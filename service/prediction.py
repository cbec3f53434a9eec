"""A prediction: what the service answers to rows of a request, and the checks before it does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from models.errors import InvalidInput
from models.runtime import Answers, at_exits
from service.request import Left, Routed


@dataclass(frozen=True)
class Prediction:
    """The answer to b rows of one request.

    routed : their places, labels, probabilities, scores, exits, and why they left there
    certified : bool (b,), whether the bundle's certificate covers the answer
    arrival : of the request, milliseconds on the engine's clock
    answered : of these rows, likewise
    passed : where all exits were asked for, their answers by exit number, each over the b rows; an
        answer counts for the rows that came so far, see `reached`
    reached : int (b,), the number of the last exit that every row came to
    """

    routed: Routed
    certified: np.ndarray
    arrival: float
    answered: float
    passed: Mapping[int, Answers]
    reached: np.ndarray

    @property
    def milliseconds(self) -> float:
        """From the arrival of the request to the answer."""
        return self.answered - self.arrival

    @property
    def row_milliseconds(self) -> np.ndarray:
        """From the arrival of the request until each row left: float (b,)."""
        return np.asarray(self.routed.departed - self.arrival)


def leave_by_policy(routed: Routed, thresholds: np.ndarray, exits: tuple[int, ...]) -> Routed:
    """Rows that ran on past their exit, answered as if they had left there.

    Parameters
    ----------
    routed : with the answers of all exits that the rows passed, one per stage; behind the last that
        a row came to, its score is no number
    thresholds : float32 (S,), of the policy
    exits : the exit's number behind every stage
    """
    reached = _stages(routed, exits)
    leaves = np.stack([answers.score for answers in routed.passed])
    leaves = leaves >= thresholds[: len(routed.passed), None]
    stages = np.where(leaves.any(axis=0), leaves.argmax(axis=0), reached)
    by_policy = leaves[stages, np.arange(len(stages))]
    return replace(
        routed,
        answers=at_exits(routed.passed, stages + 1),
        exits=np.array(exits)[stages],
        left=np.where(by_policy, Left.POLICY, routed.left),
    )


def check_answers(routed: Routed, exits: tuple[int, ...]) -> None:
    """Refuse rows whose values were finite but made the model overflow."""
    finite = _are_finite(routed.answers)
    for stage, answers in enumerate(routed.passed):
        finite &= _are_finite(answers) | (_stages(routed, exits) < stage)
    if not finite.all():
        row = routed.rows[~finite].min()
        raise InvalidInput(
            f"rows: the model has no finite answer to the values of row {row}; expected "
            "values of the size that it was trained on"
        )


def _are_finite(answers: Answers) -> np.ndarray:
    """Bool (b,). A score may be one although a probability is not: minima pass over NaN."""
    return np.asarray(np.isfinite(answers.score) & np.isfinite(answers.probabilities).all(axis=1))


def _stages(routed: Routed, exits: tuple[int, ...]) -> np.ndarray:
    """The stage in which every row left, int (b,), from 0."""
    return np.searchsorted(np.array(exits), routed.exits)
