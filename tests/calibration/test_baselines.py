from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calibration.baselines import (
    Family,
    baselines,
    entropy_score,
    greedy_policies,
    maximum_probability,
    own_score,
    patience_routes,
    policy_family,
    quantile_policies,
    sweep_policies,
)
from calibration.quality import micro_f1
from models.policy import Policy
from models.runtime import Answers, at_exits

SEEDS = st.integers(0, 2**32 - 1)
DEPTHS = st.integers(1, 5)
METHODS = (
    "one threshold",
    "entropy",
    "maximum probability",
    "one quantile",
    "patience",
    "greedy search",
)


def drawn(
    seed: int, depth: int, rows: int = 60, labels: int = 3
) -> tuple[list[Answers], np.ndarray]:
    """Answers of exits that get better with depth, with ties among their scores, and the truth."""
    rng = np.random.default_rng(seed)
    truth = rng.random((rows, labels)) < 0.4
    answers = []
    for noise in np.linspace(0.6, 0.2, depth):
        noisy = 0.25 + 0.5 * truth + noise * rng.normal(size=truth.shape)
        p = np.clip(noisy, 0, 1).astype(np.float32)
        score = np.round(2 * np.abs(p - 0.5).min(axis=1), 1)
        answers.append(Answers(p, p > 0.5, score))
    return answers, truth


def shares(depth: int) -> np.ndarray:
    return np.arange(1, depth + 1) / depth


def tuned(seed: int, depth: int) -> tuple[Family, ...]:
    tune, truth = drawn(seed, depth)
    return baselines(tune, truth, shares(depth), settings=15)


@settings(deadline=None, max_examples=30)
@given(SEEDS, DEPTHS)
def test_every_route_leaves_somewhere_and_every_family_begins_at_the_last_exit(
    seed: int, depth: int
) -> None:
    families = tuned(seed, depth)
    assert tuple(family.method for family in families) == METHODS
    other_split, _ = drawn(seed + 1, depth, rows=40)
    for family in families:
        routes = family.routes(other_split)
        assert all(exits.shape == (40,) for exits in routes)
        assert all(exits.min() >= 1 and exits.max() <= depth for exits in routes)
        assert (routes[0] == depth).all()


@settings(deadline=None, max_examples=30)
@given(SEEDS, DEPTHS)
def test_a_more_eager_setting_never_makes_a_row_leave_later(seed: int, depth: int) -> None:
    other_split, _ = drawn(seed + 1, depth)
    for family in tuned(seed, depth):
        if family.method != "one quantile":  # see below
            routes = family.routes(other_split)
            assert all((after <= before).all() for before, after in pairwise(routes)), family.method


@settings(deadline=None, max_examples=30)
@given(SEEDS, st.integers(2, 5))
def test_a_larger_quantile_never_keeps_a_row_at_the_first_exit(seed: int, depth: int) -> None:
    """Behind it other rows arrive, so that thresholds may rise."""
    tune, _ = drawn(seed, depth)
    routes = [policy.route([a.score for a in tune]) for policy in quantile_policies(tune, 15)]
    leaves_first = [exits == 1 for exits in routes]
    assert all((after >= before).all() for before, after in pairwise(leaves_first))


@settings(deadline=None, max_examples=30)
@given(SEEDS, st.integers(2, 5))
def test_one_quantile_lets_the_same_share_leave_at_every_exit(seed: int, depth: int) -> None:
    rng = np.random.default_rng(seed)
    tune = [
        Answers(a.probabilities, a.labels, rng.permutation(len(a)).astype(np.float32) / len(a))
        for a in drawn(seed, depth)[0]
    ]
    _, *policies = quantile_policies(tune, settings=5)
    assert len(policies) == 4
    for share, policy in zip((0.25, 0.5, 0.75, 1.0), policies, strict=True):
        exits = policy.route([a.score for a in tune])
        for k in range(1, depth):
            arriving = int((exits >= k).sum())
            assert int((exits == k).sum()) == np.ceil(share * arriving)


def test_an_exit_where_no_row_of_the_tune_split_arrives_keeps_none() -> None:
    tune, _ = drawn(0, 3)
    assert quantile_policies(tune, settings=5)[-1].thresholds == (tune[0].score.min(), 0.0)


@settings(deadline=None, max_examples=50)
@given(SEEDS, st.integers(2, 5))
def test_patience_is_its_definition(seed: int, depth: int) -> None:
    answers, _ = drawn(seed, depth, rows=30)
    routes = patience_routes(answers)
    assert len(routes) == depth - 1
    for patience, exits in zip(range(depth - 1, 0, -1), routes, strict=True):
        for row, exit_ in enumerate(exits):
            sets = [tuple(a.labels[row]) for a in answers]
            unchanged = (
                k
                for k in range(patience + 1, depth + 1)
                if len(set(sets[k - 1 - patience : k])) == 1
            )
            assert exit_ == next(unchanged, depth)


def test_with_patience_one_a_row_leaves_where_it_first_agrees_with_the_exit_before() -> None:
    sets = np.array([[0, 0, 0, 0], [0, 1, 1, 1], [0, 1, 0, 0], [0, 1, 0, 1]], bool)
    answers = [Answers(s[:, None], s[:, None], np.ones(4)) for s in sets.T]
    three, two, one = patience_routes(answers)
    assert one.tolist() == [2, 3, 4, 4]
    assert two.tolist() == [3, 4, 4, 4]
    assert three.tolist() == [4, 4, 4, 4]


@settings(deadline=None, max_examples=50)
@given(SEEDS)
def test_entropy_is_counted_in_bits(seed: int) -> None:
    p = np.random.default_rng(seed).uniform(0.001, 0.999, (20, 4)).astype(np.float32)
    bits = -(p * np.log2(p) + (1 - p) * np.log2(1 - p)).mean(axis=1)
    found = entropy_score(Answers(p, p > 0.5, p[:, 0]))
    assert found == pytest.approx(1 - bits, abs=1e-5)
    assert found.dtype == np.float32


def test_entropy_is_nothing_where_all_is_sure_and_whole_where_nothing_is() -> None:
    p = np.array([[0, 1, 0], [0.5, 0.5, 0.5]], np.float32)
    assert entropy_score(Answers(p, p > 0.5, p[:, 0])) == pytest.approx([1, 0], abs=1e-6)


def test_the_largest_probability_sees_the_surest_label_only() -> None:
    p = np.array([[0.9, 0.5, 0.5], [0.9, 0.0, 0.1]], np.float32)
    assert maximum_probability(Answers(p, p > 0.5, p[:, 1])) == pytest.approx([0.9, 0.9])


@settings(deadline=None, max_examples=30)
@given(SEEDS, st.integers(2, 5))
def test_a_sweep_goes_from_nobody_to_everybody_with_one_threshold_for_all(
    seed: int, depth: int
) -> None:
    scores = list(np.random.default_rng(seed).random((depth, 60)).astype(np.float32))
    nobody, *policies = sweep_policies(scores, settings=10)
    assert nobody == Policy.full(depth)
    assert all(len(set(policy.thresholds)) == 1 for policy in policies)
    thresholds = [policy.thresholds[0] for policy in policies]
    assert all(before > after for before, after in pairwise(thresholds) if before and after)
    lowest = min(score.min() for score in scores[:-1])
    assert thresholds[-1] == lowest
    assert (policies[-1].route(scores) == 1).all()


def test_a_family_routes_by_the_score_it_was_given() -> None:
    answers, _ = drawn(0, 3)
    policy = Policy((0.4, 0.4))
    (by_entropy,) = policy_family("any", [policy], entropy_score).routes(answers)
    assert (by_entropy == policy.route([entropy_score(a) for a in answers])).all()
    (by_own,) = policy_family("any", [policy]).routes(answers)
    assert (by_own == policy.route([own_score(a) for a in answers])).all()
    assert (by_own != by_entropy).any()


def test_swept_baselines_lower_the_threshold_of_their_own_score() -> None:
    tune, truth = drawn(0, 3)
    families = {f.method: f for f in baselines(tune, truth, shares(3), settings=10)}
    for method, score in (
        ("one threshold", own_score),
        ("entropy", entropy_score),
        ("maximum probability", maximum_probability),
    ):
        scores = [score(a) for a in tune]
        expected = [policy.route(scores).tolist() for policy in sweep_policies(scores, 10)]
        assert [exits.tolist() for exits in families[method].routes(tune)] == expected


def price(policy: Policy, tune: list[Answers], truth: np.ndarray) -> float:
    """Micro-F1 lost per time saved against full depth; infinite where nothing is saved."""
    until = shares(len(tune))
    exits = policy.route([a.score for a in tune])
    saved = 1 - until[exits - 1].mean()
    lost = micro_f1(tune[-1].labels, truth) - micro_f1(at_exits(tune, exits).labels, truth)
    return lost / saved if saved > 0 else np.inf


@settings(deadline=None, max_examples=30)
@given(SEEDS, st.integers(2, 4))
def test_greedy_search_never_loses_to_the_best_single_threshold(seed: int, depth: int) -> None:
    tune, truth = drawn(seed, depth)
    path = greedy_policies(tune, truth, shares(depth), settings=10)
    single = [
        Policy(tuple(float(threshold) if k == number else None for k in range(1, depth)))
        for number in range(1, depth)
        for threshold in np.quantile(
            tune[number - 1].score, np.linspace(1, 0, 10), method="nearest"
        )
    ]
    best = min(price(policy, tune, truth) for policy in single)
    assert min(price(policy, tune, truth) for policy in path) <= best + 1e-9
    # the first move is the best one itself, whatever comes behind it
    first_exit = next(k for k, t in enumerate(path[1].thresholds) if t is not None)
    alone = [
        p for p in path if [k for k, t in enumerate(p.thresholds) if t is not None] == [first_exit]
    ]
    assert min(price(policy, tune, truth) for policy in alone) == pytest.approx(best, abs=1e-9)


@settings(deadline=None, max_examples=30)
@given(SEEDS, DEPTHS)
def test_greedy_search_lowers_one_threshold_at_a_time_until_all_leave_at_the_first_exit(
    seed: int, depth: int
) -> None:
    tune, truth = drawn(seed, depth)
    path = greedy_policies(tune, truth, shares(depth), settings=10)
    assert path[0] == Policy.full(depth)
    assert len(set(path)) == len(path)
    grids = [
        [None, *np.unique(np.quantile(a.score, np.linspace(0, 1, 10), method="nearest"))[::-1]]
        for a in tune[:-1]
    ]
    for before, after in pairwise(path):
        steps = [
            grid.index(new) - grid.index(old)
            for grid, old, new in zip(grids, before.thresholds, after.thresholds, strict=True)
        ]
        assert sorted(steps) == [0] * (depth - 2) + [1]
    assert (path[-1].route([a.score for a in tune]) == 1).all()


def test_greedy_search_leaves_a_bad_exit_for_last() -> None:
    """An exit that is always wrong costs more than one that is always right."""
    rng = np.random.default_rng(0)
    truth = rng.random((50, 2)) < 0.5
    score = rng.random(50).astype(np.float32)
    right, wrong = (Answers(sets.astype(float), sets, score) for sets in (truth, ~truth))
    path = greedy_policies([wrong, right, right], truth, shares(3), settings=10)
    second_only = [policy for policy in path if policy.thresholds[0] is None]
    assert second_only[-1].thresholds[1] == score.min()


def test_greedy_search_looks_past_a_bad_quantile() -> None:
    """The surest row of exit 1 is wrong and all others are right; exit 2 is wrong now and then."""
    truth = np.ones((40, 1), bool)
    score = np.linspace(1, 0, 40).astype(np.float32)
    surest, often = (np.arange(40)[:, None] % n != 0 for n in (40, 10))
    answers = [Answers(sets.astype(float), sets, score) for sets in (surest, often, truth)]
    path = greedy_policies(answers, truth, shares(3), settings=20)
    at_first_exit = [policy for policy in path if policy.thresholds[1] is None]
    assert at_first_exit[-1].thresholds[0] == 0
