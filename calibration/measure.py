"""Measures layers and the deployed policy on one split: W-distances, quality, cost."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from calibration.costs import computed_time
from calibration.transport import exact_distance, sliced_distance
from models.manifest import Costs, ExitProfile, LayerProfile, Measurement, PolicyQuality
from models.policy import Policy
from models.runtime import Answers, at_exits


def profile_layer(
    layer: str, answers: Answers, teacher: np.ndarray, truth: np.ndarray, seed: int
) -> LayerProfile:
    """Distances and quality of one layer's answers.

    Parameters
    ----------
    answers : over n rows
    teacher : float (n, L), the target distribution's probabilities
    truth : bool (n, L), the true label sets
    seed : draws the sub-samples; with one seed, layers are compared on the same rows
    """
    wanted = truth.astype(np.float32)
    return LayerProfile(
        layer=layer,
        w_teacher=exact_distance(answers.probabilities, teacher, seed),
        w_teacher_sliced=sliced_distance(answers.probabilities, teacher, seed),
        w_labels=exact_distance(answers.probabilities, wanted, seed),
        w_labels_sliced=sliced_distance(answers.probabilities, wanted, seed),
        micro_f1=micro_f1(answers.labels, truth),
    )


def measure_policy(
    profiles: Sequence[LayerProfile],
    answers: Sequence[Answers],
    truth: np.ndarray,
    policy: Policy,
    costs: Costs,
) -> Measurement:
    """What the deployed policy gives.

    Parameters
    ----------
    profiles : K, of the policy's exits
    answers : K, one per exit, over n rows; then the full model's where the last exit is not its own
    truth : bool (n, L), the true label sets
    """
    exits = policy.route([exit_answers.score for exit_answers in answers[: policy.depth]])
    largest = [computed_time(np.array([k]), costs) for k in range(1, policy.depth + 1)]
    answered = at_exits(answers, exits)
    return Measurement(
        exits=tuple(
            ExitProfile(
                **dict(profile), exit=k, share_leaving=float(np.mean(exits == k)), time=time
            )
            for k, (profile, time) in enumerate(zip(profiles, largest, strict=True), start=1)
        ),
        policy=PolicyQuality(
            micro_f1=micro_f1(answered.labels, truth),
            micro_f1_full_depth=micro_f1(answers[-1].labels, truth),
            set_agreement=float((answered.labels == answers[-1].labels).all(axis=1).mean()),
            computed_time=computed_time(exits, costs),
            computed_time_single=computed_time(exits, costs, batch=0),
        ),
    )


def micro_f1(predicted: np.ndarray, truth: np.ndarray) -> float:
    """Micro-averaged F1 of label sets bool (n, L); F1 of nothing against nothing is 1."""
    from sklearn.metrics import f1_score

    return float(f1_score(truth, predicted, average="micro", zero_division=1.0))
