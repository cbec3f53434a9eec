"""Certificates as statistics: a thousand simulated calibrations of each kind of promise.

Certify splits are drawn with replacement from a finite population, whose own losses are the truth,
exactly. The paths run from policies that keep their promise easily to ones that barely break it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache, cached_property

import numpy as np
import pytest

from calibration.certificate import certify
from calibration.guarantee import Against, Guarantee, Guarantees
from calibration.label_floor import LabelTests
from calibration.p_values import micro_f1_interval, promise_p_value
from models.manifest import Certificate
from models.policy import Policy
from models.runtime import Answers, at_exits

LABELS = 6
POPULATION = 20_000
SIMULATIONS, DELTA = 1000, 0.05
STRAINS = (0.3, 0.45, 0.6, 0.7, 0.78, 0.86, 0.93, 1.005, 1.04, 1.08, 1.15)
"""True loss over epsilon, along a path."""

MODEL_EPSILON = {"set-agreement": 0.1, "hamming": 0.02, "sample-f1": 0.05, "micro-f1": 0.06}
REGRET_EPSILON = {"set-agreement": 0.06, "hamming": 0.012, "sample-f1": 0.03, "micro-f1": 0.05}
ALONE = [Guarantee(loss, "model", epsilon) for loss, epsilon in MODEL_EPSILON.items()] + [
    Guarantee(loss, "labels", epsilon) for loss, epsilon in REGRET_EPSILON.items()
]


def together(against: Against, *losses: str) -> Guarantees:
    return Guarantees(tuple(g for g in ALONE if g.loss in losses and g.against == against), DELTA)


def label_by_label(against: Against, epsilon: float) -> Guarantees:
    """The promise for all labels is too weak to matter: single labels are what is tested."""
    return Guarantees((Guarantee("hamming", against, 0.3),), DELTA, epsilon)


KINDS = {
    **{f"{g.loss}-{g.against}": Guarantees((g,), DELTA) for g in ALONE},
    "two-model": together("model", "set-agreement", "hamming"),
    "two-labels": together("labels", "set-agreement", "sample-f1"),
    "per-label-model": label_by_label("model", 0.15),
    "per-label-labels": label_by_label("labels", 0.1),
}


def allowed(level: float, simulations: int = SIMULATIONS) -> float:
    """A share that is the level or less in truth is above this once in 700 simulations."""
    return level + 3 * np.sqrt(level * (1 - level) / simulations)


@dataclass(frozen=True)
class Step:
    """A policy of a path, its label sets for all rows, and how near it is to breaking promises."""

    policy: Policy
    answered: np.ndarray
    strain: float
    label_strain: np.ndarray

    @property
    def largest(self) -> float:
        return max(self.strain, float(self.label_strain.max()))

    def breaks(self, labels: list[int]) -> bool:
        """Whether a promise is broken in truth, where these labels are promised something."""
        return max([self.strain, *self.label_strain[labels]]) > 1


@dataclass(frozen=True)
class Population:
    """Three exits over all rows: scores with many ties, early sets worse or better than full ones.

    answers : 3, over N rows
    truth : bool (N, L); the last label is rare, some sets are empty
    """

    answers: tuple[Answers, ...]
    truth: np.ndarray

    @classmethod
    def drawn(cls, rng: np.random.Generator) -> Population:
        ease = rng.random((POPULATION, 1))
        often = np.array([0.5, 0.4, 0.3, 0.3, 0.2, 0.012])
        truth = rng.random((POPULATION, LABELS)) < often
        doubt = 0.06 * np.minimum(1, often / 0.2) * (1 + truth[:, :1])
        full = truth ^ (rng.random(truth.shape) < doubt)
        answers = []
        for trouble in (0.3, 0.2):
            wrong = trouble * (1 - ease) ** 2 * np.array([2, 1, 1, 1, 1, 0.2])
            broken = rng.random(truth.shape) < wrong
            mended = rng.random(truth.shape) < 0.2
            early = full ^ np.where(full == truth, broken, mended)
            noisy = ease[:, 0] + 0.05 * rng.normal(size=POPULATION)
            score = np.clip(np.round(200 * noisy) / 200, 0, 1).astype(np.float32)
            answers.append(Answers(early.astype(np.float32), early, score))
        answers.append(Answers(full.astype(np.float32), full, answers[-1].score))
        return cls(tuple(answers), truth)

    @property
    def full(self) -> np.ndarray:
        return self.answers[-1].labels

    def answered(self, policy: Policy) -> np.ndarray:
        exits = policy.route([exit_answers.score for exit_answers in self.answers])
        return at_exits(self.answers, exits).labels

    @cached_property
    def policies(self) -> list[tuple[Policy, np.ndarray]]:
        """From cautious to eager, with their label sets for all rows, bool (N, L)."""
        cuts = np.arange(180, -1, -1) / 200
        policies = [Policy((float(t), max(float(t) - 0.1, 0.0))) for t in cuts]
        return [(policy, self.answered(policy)) for policy in policies]

    def strain(self, guarantees: Guarantees, answered: np.ndarray) -> tuple[float, np.ndarray]:
        """Loss over what is allowed of it, of the promises and of every label, float (L,).

        Above 1 the promise is broken.
        """
        promises = [
            promise.row_losses(answered, self.full, self.truth).mean() / promise.epsilon
            for promise in guarantees.promises
        ]
        epsilon = guarantees.label_epsilon
        if epsilon is None:
            return max(promises), np.zeros(LABELS)
        found, spared = (answered & self.truth).sum(axis=0), (self.full & self.truth).sum(axis=0)
        if guarantees.against == "labels":
            return max(promises), (spared - found) / self.truth.sum(axis=0) / epsilon
        kept = (answered & self.full).sum(axis=0) / self.full.sum(axis=0)
        return max(promises), (1 - kept) / epsilon

    def path(self, guarantees: Guarantees) -> list[Step]:
        """The first policies that reach the strains, from below to above 1."""

        @cache
        def step(number: int) -> Step:
            policy, answered = self.policies[number]
            return Step(policy, answered, *self.strain(guarantees, answered))

        numbers = range(len(self.policies))
        chosen = {bisect_left(numbers, s, key=lambda n: step(n).largest) for s in STRAINS}
        path = [step(number) for number in sorted(chosen)]
        assert path[0].largest < 0.6
        assert path[-1].largest > 1
        return path


@dataclass(frozen=True)
class Split:
    """A certify split: rows drawn from the population."""

    rows: np.ndarray
    answers: list[Answers]
    truth: np.ndarray
    tests: LabelTests | None

    @property
    def full(self) -> np.ndarray:
        return self.answers[-1].labels

    def label_losses(self, answered: np.ndarray) -> list[float]:
        if self.tests is None:
            return []
        return [float(self.tests.losses(label, answered).mean()) for label in self.tests.tested]


@pytest.fixture(scope="module")
def population() -> Population:
    return Population.drawn(np.random.default_rng(20))


def splits(population: Population, guarantees: Guarantees, size: int, seed: int) -> Iterator[Split]:
    rng = np.random.default_rng(seed)
    against, epsilon = guarantees.against, guarantees.label_epsilon
    for _ in range(SIMULATIONS):
        rows = rng.integers(0, POPULATION, size)
        answers = [exit_answers.take(rows) for exit_answers in population.answers]
        truth, full = population.truth[rows], answers[-1].labels
        tests = LabelTests.of(against, epsilon, DELTA, full, truth) if epsilon else None
        yield Split(rows, answers, truth, tests)


def holds_here(guarantees: Guarantees, answered: np.ndarray, split: Split) -> bool:
    """Whether all promises hold on these rows as they are, without any statistics."""
    return all(
        promise.row_losses(answered, split.full, split.truth).mean() <= promise.epsilon
        for promise in guarantees.promises
    )


def promised_labels(certificate: Certificate) -> list[int]:
    floor = enumerate(certificate.label_floor)
    return [number for number, label in floor if label.mean_loss is not None]


def naive_choice(guarantees: Guarantees, split: Split, path: list[Step]) -> Step:
    """What a certificate is not: the most eager policy that keeps the promises on these rows."""
    kept = [
        holds_here(guarantees, sets, split)
        and all(loss <= (guarantees.label_epsilon or 0) for loss in split.label_losses(sets))
        for sets in (step.answered[split.rows] for step in path)
    ]
    return path[int(np.flatnonzero([True, *kept[1:]])[-1])]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_certified_policies_break_their_promises_at_most_as_often_as_said(
    population: Population, kind: str
) -> None:
    guarantees, names = KINDS[kind], tuple("abcdef")
    path = population.path(guarantees)
    policies = [step.policy for step in path]
    broken = naively_broken = certified = passed = 0
    for seed, split in enumerate(splits(population, guarantees, size=1000, seed=21)):
        rng = np.random.default_rng(seed)
        _, certificate = certify(policies, split.answers, split.truth, guarantees, names, rng)
        labels = promised_labels(certificate)
        if certificate.certified:
            certified += 1
            passed += certificate.policies_passed
            broken += path[certificate.policies_passed - 1].breaks(labels)
        naively_broken += naive_choice(guarantees, split, path).breaks(labels)
    assert broken <= allowed(DELTA) * SIMULATIONS
    assert naively_broken > 2 * allowed(DELTA) * SIMULATIONS  # the simulation can tell
    assert certified > 0.5 * SIMULATIONS  # and a promise that is never made is no proof
    assert passed > 2 * SIMULATIONS


@pytest.mark.parametrize("kind", ALONE, ids=lambda kind: f"{kind.loss}-{kind.against}")
def test_p_values_at_the_edge_of_the_promise_are_no_smaller_than_uniform_ones(
    population: Population, kind: Guarantee
) -> None:
    step = population.path(Guarantees((kind,)))[-1]
    edge = replace(kind, epsilon=kind.epsilon * step.strain)  # what the policy loses, exactly
    rng = np.random.default_rng(22)
    p_values = []
    for _ in range(SIMULATIONS):
        rows = rng.integers(0, POPULATION, 600)
        sets = step.answered[rows], population.full[rows], population.truth[rows]
        p_values.append(promise_p_value(edge, DELTA, *sets))
    for level in (0.01, 0.05, 0.1):
        assert np.mean(np.array(p_values) <= level) <= allowed(level)
    assert np.mean(np.array(p_values) <= 0.3) > 0.03  # they are not all ones


def test_an_answer_of_other_size_than_the_full_models_is_no_easier_to_prove() -> None:
    """There the full model's own micro-F1, which is not known, counts most."""
    rng = np.random.default_rng(25)
    truth = rng.random((POPULATION, LABELS)) < 0.5
    full = truth & (rng.random(truth.shape) < 0.5)
    answers = ~truth | (rng.random(truth.shape) < 0.9)
    regret = Guarantee("micro-f1", "labels", 0.5).row_losses(answers, full, truth).mean()
    edge = Guarantee("micro-f1", "labels", float(regret))
    refused = 0
    for _ in range(SIMULATIONS):
        rows = rng.integers(0, POPULATION, 300)
        refused += promise_p_value(edge, DELTA, answers[rows], full[rows], truth[rows]) > DELTA
    assert refused >= (1 - allowed(DELTA)) * SIMULATIONS


@pytest.mark.parametrize("against", ["model", "labels"])
def test_p_values_of_labels_at_the_edge_are_no_smaller_than_uniform_ones(
    population: Population, against: Against
) -> None:
    label, epsilon = 0, 0.1
    guarantees = label_by_label(against, epsilon)
    step = population.path(guarantees)[-1]
    edge = epsilon * float(step.label_strain[label])
    rng = np.random.default_rng(23)
    p_values = []
    for _ in range(SIMULATIONS):
        rows = rng.integers(0, POPULATION, 600)
        full, truth = (sets[rows][:, [label]] for sets in (population.full, population.truth))
        tests = LabelTests.of(against, edge, DELTA, full, truth)
        p_values.append(tests.p_value(step.answered[rows][:, [label]]))
    for level in (0.01, 0.05, 0.1):
        assert np.mean(np.array(p_values) <= level) <= allowed(level)
    assert np.mean(np.array(p_values) <= 0.3) > 0.03


def test_the_interval_of_micro_f1_holds_the_populations_as_often_as_said(
    population: Population,
) -> None:
    full, truth = population.full, population.truth
    f1 = 2 * (full & truth).sum() / (full.sum() + truth.sum())
    rng, missed, widths = np.random.default_rng(24), 0, []
    for _ in range(SIMULATIONS):
        rows = rng.integers(0, POPULATION, 600)
        low, high = micro_f1_interval(full[rows], truth[rows], 0.1)
        missed += not low <= f1 <= high
        widths.append(high - low)
    assert missed <= allowed(0.1) * SIMULATIONS
    assert np.mean(widths) < 0.1
