"""Measures the deployed policy on the test split, which nothing was chosen on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from calibration.baselines import baselines
from calibration.costs import computed_time, time_until
from calibration.layer_answers import LayerHead
from calibration.layer_profile import exact_estimate
from calibration.placed_exits import PlacedExits
from calibration.plan import traffic_of
from calibration.quality import measure_quality, micro_f1
from calibration.quality_curves import Outcomes, curves_of
from calibration.resampling import Resamples
from calibration.steps import Steps
from models.measurements import Costs, ExitProfile, Measurement, QualityCurve
from models.policy import Policy
from models.runtime import Answers, at_exits


def measure_test(
    exits: PlacedExits,
    steps: Steps,
    policy: Policy,
    path: Sequence[Policy],
    tune: Sequence[Answers],
    costs: Costs,
    heads: Sequence[LayerHead],
) -> Measurement:
    """What the policy gives on the test split, beside other ways to choose one.

    Parameters
    ----------
    path : the W path, over the same exits
    tune : K, the exits' answers to the tune split, on which the baselines are tuned
    heads : of every candidate layer, for static truncation
    """
    truth, full = steps.labels("test"), exits.full("test")
    answers = exits.answers("test")
    measured = measure_answers(
        answers,
        full,
        steps.teacher(full, "test"),
        truth,
        policy,
        costs,
        steps.names,
        steps.options.seed,
    )
    until = time_until(costs)
    outcomes = Outcomes.measured(answers, full, truth, until)
    layers = Outcomes.measured(steps.answers(heads, "test"), full, truth, _static_times(steps))
    families = baselines(tune, steps.labels("tune"), until)
    curves = curves_of(path, families, answers, outcomes, layers)
    return measured.model_copy(update={"curves": curves})


def measure_answers(
    answers: Sequence[Answers],
    full: Answers,
    teacher: np.ndarray,
    truth: np.ndarray,
    policy: Policy,
    costs: Costs,
    names: tuple[str, ...],
    seed: int,
) -> Measurement:
    """What a policy gives on some rows; without curves.

    Parameters
    ----------
    answers : K, one per exit, over n rows
    full : the full model's answers
    teacher : float (n, L), probabilities
    truth : bool (n, L), the true label sets
    """
    scores = [exit_answers.score for exit_answers in answers]
    exits = policy.route(scores)
    times = computed_time(exits, costs), computed_time(exits, costs, batch=0)
    quality, labels = measure_quality(at_exits(answers, exits), full, truth, names, times, seed)
    traffic = traffic_of(policy, scores)
    resamples = Resamples.of(len(truth), seed)
    wanted = truth.astype(np.float32)
    profiles = tuple(
        ExitProfile(
            exit=number,
            w_teacher=exact_estimate(exit_answers.probabilities, teacher, resamples),
            w_labels=exact_estimate(exit_answers.probabilities, wanted, resamples),
            micro_f1=micro_f1(exit_answers.labels, truth),
            share_leaving=float(traffic.leaving[number - 1]),
            leaves_next=tuple(traffic.leaves_next[number - 1].tolist()),
            time=float(time),
        )
        for number, (exit_answers, time) in enumerate(
            zip(answers, time_until(costs), strict=True), start=1
        )
    )
    curves: tuple[QualityCurve, ...] = ()
    return Measurement(exits=profiles, policy=quality, labels=labels, curves=curves)


def _static_times(steps: Steps) -> np.ndarray:
    """Time of a model that ends at each layer, as a share of the whole's: float (layers,)."""
    until = np.cumsum(steps.layered.milliseconds)
    times: np.ndarray = until / until[-1]
    return times
