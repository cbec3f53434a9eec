"""Measures exits and the deployed policy on one split: W-distances, quality, cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from calibration.costs import computed_time
from calibration.transport import exact_distance, sliced_distance
from models.manifest import Costs, ExitProfile, Measurement, PolicyQuality
from models.policy import Policy
from models.runtime import Answers, at_exits

if TYPE_CHECKING:
    from rich.progress import Progress


def measure_split(
    split: Literal["tune", "test"],
    answers: Sequence[Answers],
    labels: np.ndarray,
    policy: Policy,
    costs: Costs,
    seed: int,
    progress: Progress,
) -> Measurement:
    """Profile every exit and the policy.

    Parameters
    ----------
    answers : K, one per exit, over n rows
    labels : bool (n, L), the true label sets
    seed : draws the sub-samples, the same ones for every exit
    """
    exits = policy.route([exit_answers.score for exit_answers in answers])
    profiles = [
        _profile(number, exit_answers, answers[-1], labels, float(np.mean(exits == number)), seed)
        for number, exit_answers in enumerate(
            progress.track(answers, description=f"W-distances, {split}"), start=1
        )
    ]
    return Measurement(
        split=split, exits=tuple(profiles), policy=_quality(answers, exits, labels, costs)
    )


def micro_f1(predicted: np.ndarray, labels: np.ndarray) -> float:
    """Micro-averaged F1 of label sets bool (n, L); F1 of nothing against nothing is 1."""
    from sklearn.metrics import f1_score

    return float(f1_score(labels, predicted, average="micro", zero_division=1.0))


def _profile(
    number: int,
    answers: Answers,
    teacher: Answers,
    labels: np.ndarray,
    share_leaving: float,
    seed: int,
) -> ExitProfile:
    truth = labels.astype(np.float32)
    return ExitProfile(
        exit=number,
        w_teacher=exact_distance(answers.probabilities, teacher.probabilities, seed),
        w_teacher_sliced=sliced_distance(answers.probabilities, teacher.probabilities, seed),
        w_labels=exact_distance(answers.probabilities, truth, seed),
        w_labels_sliced=sliced_distance(answers.probabilities, truth, seed),
        micro_f1=micro_f1(answers.labels, labels),
        share_leaving=share_leaving,
    )


def _quality(
    answers: Sequence[Answers], exits: np.ndarray, labels: np.ndarray, costs: Costs
) -> PolicyQuality:
    answered = at_exits(answers, exits)
    by_batch = np.array(costs.stage_milliseconds).T  # (batches, K)
    return PolicyQuality(
        micro_f1=micro_f1(answered.labels, labels),
        micro_f1_full_depth=micro_f1(answers[-1].labels, labels),
        set_agreement=float((answered.labels == answers[-1].labels).all(axis=1).mean()),
        computed_time=computed_time(exits, by_batch[-1]),
        computed_time_single=computed_time(exits, by_batch[0]),
    )
