"""The evaluation of a bundle on labelled rows: what its exits give there, promise by promise."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from scipy.stats import binom

from calibration.guarantee import Guarantee
from calibration.label_floor import LabelTests
from calibration.measure import measure_answers
from calibration.p_values import F1_SHARE, betting_p_value, micro_f1_interval
from calibration.plan import is_truncated
from calibration.splits import split_digests
from models.errors import CalibrationError
from models.runtime import at_exits

if TYPE_CHECKING:
    from calibration.dataset import Dataset
    from calibration.evaluation_rows import AnsweredRows
    from models.manifest import Manifest
    from models.measurements import Measurement


@dataclass(frozen=True)
class PromiseCheck:
    """What rows say of one promise.

    label : the one that is promised; None: the promise is of all labels together
    level : what the p-value is compared with: delta, divided by the number of promises
    rows : that count; of a single label its positives
    loss : None where it cannot be measured
    p_value : of "the loss is at most epsilon"; small ones are evidence that it is larger
    consistent : whether the p-value is above the level
    """

    guarantee: str
    against: str
    label: str | None
    epsilon: float
    level: float
    rows: int
    loss: float | None = None
    p_value: float | None = None
    consistent: bool | None = None


@dataclass(frozen=True)
class Evaluation:
    """What a bundle gives on m labelled rows.

    reference : what the policy is compared with: the full model, or what a truncated bundle has
    known : splits of the calibration that the rows are, or that their own split column names; only
        whole splits in their order are known again, since the manifest has no more than a hash
    """

    rows: int
    skipped: int
    reference: str
    measured: Measurement
    promises: tuple[PromiseCheck, ...]
    known: tuple[str, ...]


def evaluate_rows(manifest: Manifest, data: Dataset, answered: AnsweredRows) -> Evaluation:
    """Measure the deployed policy on two or more answered rows; check the certificate on them.

    All is drawn by the bundle's seed: its test split gives the figures of its manifest.
    """
    truth, answers = data.labels[answered.rows], answered.answers
    if len(truth) < 2:
        raise CalibrationError(
            f"{len(truth)} rows were answered and {answered.skipped} left out: expected at least "
            "two; without --skip-bad it is said what is wrong with the others"
        )
    full, policy = answers[-1], manifest.policy
    seed = int(manifest.facts.get("options", {}).get("seed", 0))
    measured = measure_answers(
        *(answers, full, full.probabilities, truth, policy, manifest.costs, manifest.labels, seed)
    )
    routed = at_exits(answers, policy.route([exit_answers.score for exit_answers in answers]))
    order = np.random.default_rng(seed).permutation(len(truth))  # files may be sorted
    checks = _checks(manifest, routed.labels[order], full.labels[order], truth[order])
    reference = "full model"
    if is_truncated(manifest.costs):
        reference = "last exit"
        checks = [replace(c, loss=None, p_value=None, consistent=None) for c in checks]
    known = _known_splits(manifest, data, answered)
    return Evaluation(len(truth), answered.skipped, reference, measured, tuple(checks), known)


def broken_p_value(
    guarantee: Guarantee, level: float, answers: np.ndarray, full: np.ndarray, truth: np.ndarray
) -> float:
    """p-value of "the policy keeps this promise": small when rows are evidence that it does not.

    The tests of `calibration.p_values`, mirrored. For micro-F1 against labels the full model's own
    F1 is not known: the first half of the rows gives an interval for it, and on each row of the
    second half that end of it counts which speaks for the promise.

    Parameters
    ----------
    level : that the bets are tuned for; the p-value is valid for every level
    answers, full, truth : label sets bool (n, L), in an order fixed without looking at them
    """
    epsilon = guarantee.epsilon
    if guarantee.loss != "micro-f1":
        losses = guarantee.row_losses(answers, full, truth)
        return _mean_p_value(losses, epsilon, guarantee.binary, guarantee.against, level)
    sizes = answers.sum(axis=1)
    if guarantee.against == "model":
        hits = (answers & full).sum(axis=1)
        spared = 2 * epsilon * hits - (1 - epsilon) * (sizes + full.sum(axis=1) - 2 * hits)
        return betting_p_value(spared, 2 * epsilon * answers.shape[1], level)
    half = len(answers) // 2
    low, high = micro_f1_interval(full[:half], truth[:half], F1_SHARE * level)
    gained = 2 * ((answers & truth).sum(axis=1) - (full & truth).sum(axis=1))
    grown = sizes - full.sum(axis=1)
    allowed = epsilon * (sizes + truth.sum(axis=1))
    spared = gained + allowed - np.minimum(low * grown, high * grown)
    largest = (2 + 2 * epsilon) * answers.shape[1]
    return min(1.0, F1_SHARE * level + betting_p_value(spared[half:], largest, level))


def _mean_p_value(
    losses: np.ndarray, epsilon: float, binary: bool, against: str, level: float
) -> float:
    """p-value of "the mean loss is at most epsilon"."""
    if binary:
        return float(binom.sf(losses.sum() - 1, len(losses), epsilon))
    lowest = 0 if against == "model" else -1  # a regret may be a gain
    return betting_p_value(epsilon - losses, epsilon - lowest, level)


def _checks(
    manifest: Manifest, answers: np.ndarray, full: np.ndarray, truth: np.ndarray
) -> list[PromiseCheck]:
    """Every promise of the certificate, those of single labels too."""
    certificate = manifest.certificate
    labels = [floor.label for floor in certificate.label_floor if floor.mean_loss is not None]
    level = certificate.delta / (len(certificate.promises) + len(labels))
    checks = []
    for promise in certificate.promises:
        guarantee = Guarantee(promise.guarantee, promise.against, promise.epsilon)
        p = broken_p_value(guarantee, level, answers, full, truth)
        loss = float(guarantee.row_losses(answers, full, truth).mean())
        about = (promise.guarantee, promise.against, None, promise.epsilon, level, len(truth))
        checks.append(PromiseCheck(*about, loss, p, p > level))
    against, epsilon = certificate.promises[0].against, certificate.label_epsilon or 1.0
    positive = full if against == "model" else truth
    nobody = np.zeros(0, int), 0, np.zeros(0), 0
    tests = LabelTests(against, epsilon, level, positive, full, *nobody)
    for name in labels:
        losses = tests.losses(manifest.labels.index(name), answers)
        check = PromiseCheck("label", against, name, epsilon, level, len(losses))
        if len(losses):
            p = _mean_p_value(losses, epsilon, against == "model", against, level)
            check = replace(check, loss=float(losses.mean()), p_value=p, consistent=p > level)
        checks.append(check)
    return checks


def _known_splits(manifest: Manifest, data: Dataset, answered: AnsweredRows) -> tuple[str, ...]:
    truth = data.labels[answered.rows]
    splits = np.zeros(len(truth), np.int8), data.split[answered.rows]  # as one, and as named
    found = {d for s in splits for d in split_digests(answered.hashes, truth, s).values()}
    return tuple(name for name, facts in manifest.splits.items() if facts.sha256 in found)
