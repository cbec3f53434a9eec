from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit
from sklearn.metrics import roc_auc_score

from calibration.layer_answers import LayerHead, chain_answers
from calibration.score_choice import (
    LEAST_WIDTH,
    PSEUDO_ROWS,
    Lost,
    best_kind,
    choose_scores,
    fit_gate,
    label_widths,
)
from models.errors import CalibrationError
from models.heads import HeadCalibration
from models.measurements import ScoreKind

KINDS = get_args(ScoreKind)
ROWS, LABELS = 3000, 4


def plain_heads(depth: int, labels: int = LABELS) -> list[LayerHead]:
    """Heads whose probabilities are the sigmoid of their column."""
    calibration = HeadCalibration(np.ones(labels), np.zeros(labels), np.full(labels, 0.5))
    return [LayerHead(None, calibration)] * depth


def logits_of(*probabilities: np.ndarray) -> list[np.ndarray]:
    clipped = [p.clip(0.001, 0.999) for p in probabilities]
    return [np.log(p / (1 - p)).astype(np.float32) for p in clipped]


def set_differs_from(target: np.ndarray) -> Lost:
    return lambda _, labels: (labels != target).any(axis=1)


def rows_that_fail_where_the_exits_disagree(
    seed: int = 0,
) -> tuple[list[np.ndarray], np.ndarray, Lost]:
    """Three exits with random margins; exit 2 loses a row where it has moved away from exit 1."""
    rng = np.random.default_rng(seed)
    first, second = rng.uniform(size=(2, ROWS, LABELS))
    moved = np.abs(first - second).max(axis=1)
    failed = expit(20 * (moved - 0.75)) > rng.uniform(size=ROWS)
    target = second > 0.5

    def lost(exit_index: int, labels: np.ndarray) -> np.ndarray:
        return failed if exit_index == 1 else (labels != target).any(axis=1)

    return logits_of(first, second, target.astype(float)), target, lost


def rows_whose_labels_differ_in_width(seed: int = 0) -> tuple[list[np.ndarray], np.ndarray]:
    """Two exits; label 0 errs anywhere, the others only next to their threshold."""
    rng = np.random.default_rng(seed)
    first = rng.uniform(size=(ROWS, LABELS))
    noise = np.array([0.5, 0.02, 0.02, 0.02]) * rng.normal(size=(ROWS, LABELS))
    target = first + noise > 0.5
    return logits_of(first, target.astype(float)), target


def test_a_gate_is_chosen_where_failure_depends_on_what_changed() -> None:
    columns, target, lost = rows_that_fail_where_the_exits_disagree()
    heads, choice = choose_scores(
        columns, plain_heads(3), target, lost, ["margin", "gate"], freeze=False, seed=0
    )
    assert choice.kind == "gate"
    assert choice.auroc["gate"][1] > choice.auroc["margin"][1] + 0.2
    assert [head.calibration.score.kind for head in heads] == ["gate", "gate", "margin"]
    answers = chain_answers(columns, heads)[1]
    served = roc_auc_score(~lost(1, answers.labels), answers.score)
    assert served == pytest.approx(choice.auroc["gate"][1], abs=0.02)


def test_the_width_is_chosen_where_labels_differ_in_width() -> None:
    columns, target = rows_whose_labels_differ_in_width()
    kinds = ["margin", "width", "log-probability", "agreement"]
    heads, choice = choose_scores(
        columns, plain_heads(2), target, set_differs_from(target), kinds, freeze=False, seed=0
    )
    assert choice.kind == "width"
    widths = heads[0].calibration.score.widths
    assert widths[0] > 5 * widths[1:].max()


def test_agreement_at_the_only_early_exit_is_the_margin() -> None:
    columns, target = rows_whose_labels_differ_in_width()
    _, choice = choose_scores(
        columns, plain_heads(2), target, set_differs_from(target), KINDS, freeze=False, seed=0
    )
    assert choice.auroc["agreement"] == choice.auroc["margin"]
    assert all(len(values) == 1 for values in choice.auroc.values())


def test_a_gate_is_not_judged_on_the_rows_that_it_was_fitted_on() -> None:
    rng = np.random.default_rng(1)
    columns = logits_of(*rng.uniform(size=(3, 120, LABELS)))
    failed = rng.random((2, 120)) < 0.5  # by chance alone

    def lost(exit_index: int, _: np.ndarray) -> np.ndarray:
        return failed[exit_index]

    judged, own = [], []
    for seed in range(12):
        target = np.zeros((120, LABELS), bool)
        heads, choice = choose_scores(
            columns, plain_heads(3), target, lost, ["gate"], freeze=False, seed=seed
        )
        judged.append(choice.auroc["gate"][1])
        own.append(roc_auc_score(~failed[1], chain_answers(columns, heads)[1].score))
    assert np.mean(own) > 0.57
    assert np.mean(judged) < 0.55


@pytest.mark.parametrize("freeze", [False, True])
def test_the_same_seed_gives_the_same_choice(freeze: bool) -> None:
    columns, target, lost = rows_that_fail_where_the_exits_disagree()
    one, other = (
        choose_scores(columns, plain_heads(3), target, lost, KINDS, freeze, seed=3)[1]
        for _ in range(2)
    )
    assert one == other
    assert one.frozen_labels == freeze


def test_freezing_shows_the_kept_labels_to_the_loss() -> None:
    """Exit 3 forgets what exits 1 and 2 knew: kept decisions save its rows."""
    rng = np.random.default_rng(2)
    target = rng.random((ROWS, LABELS)) < 0.5
    good = np.where(target, 0.9, 0.1) + rng.uniform(-0.1, 0.1, (ROWS, LABELS))
    swapped = rng.random((ROWS, LABELS)) < 0.02
    good = np.where(swapped, 1 - good, good)
    columns = logits_of(good, good, rng.uniform(size=(ROWS, LABELS)), target.astype(float))
    shares: dict[bool, list[float]] = {False: [], True: []}
    for freeze, seen in shares.items():

        def lost(exit_index: int, labels: np.ndarray, seen: list[float] = seen) -> np.ndarray:
            failed = (labels != target).any(axis=1)
            if exit_index == 2:
                seen.append(float(failed.mean()))
            return failed

        heads, choice = choose_scores(
            columns, plain_heads(4), target, lost, ["margin"], freeze, seed=0
        )
        assert choice.frozen_labels == freeze
        assert all(head.calibration.score.freeze == freeze for head in heads)
    assert min(shares[False]) > 0.9
    assert max(shares[True]) < 0.9


def test_two_exits_freeze_nothing() -> None:
    columns, target = rows_whose_labels_differ_in_width()
    heads, choice = choose_scores(
        columns, plain_heads(2), target, set_differs_from(target), KINDS, freeze=True, seed=0
    )
    assert not choice.frozen_labels
    assert not any(head.calibration.score.freeze for head in heads)


@pytest.mark.parametrize("fate", [False, True])
def test_where_all_rows_are_alike_the_margin_is_chosen(fate: bool) -> None:
    columns, target, _ = rows_that_fail_where_the_exits_disagree()

    def lost(_: int, labels: np.ndarray) -> np.ndarray:
        return np.full(len(labels), fate)

    for kinds in (KINDS, ["gate"]):
        heads, choice = choose_scores(
            columns, plain_heads(3), target, lost, kinds, freeze=False, seed=0
        )
        assert choice.kind == "margin"
        assert {head.calibration.score.kind for head in heads} == {"margin"}
        assert all(values == (None, None) for values in choice.auroc.values())


def test_a_gate_stands_only_where_it_could_be_fitted() -> None:
    columns, target, lost = rows_that_fail_where_the_exits_disagree()

    def lost_at_exit_2(exit_index: int, labels: np.ndarray) -> np.ndarray:
        return lost(1, labels) if exit_index == 1 else np.zeros(ROWS, bool)

    heads, choice = choose_scores(
        columns, plain_heads(3), target, lost_at_exit_2, ["margin", "gate"], freeze=False, seed=0
    )
    assert choice.kind == "gate"
    assert choice.auroc["gate"][0] is None
    assert [head.calibration.score.kind for head in heads] == ["margin", "gate", "margin"]


def test_one_exit_needs_no_choice() -> None:
    columns, target = rows_whose_labels_differ_in_width()
    [head], choice = choose_scores(
        columns[:1], plain_heads(1), target, set_differs_from(target), KINDS, freeze=True, seed=0
    )
    assert head.calibration.score.kind == choice.kind == "margin"
    assert not choice.frozen_labels
    assert set(choice.auroc.values()) == {()}


def test_no_kind_at_all_is_refused() -> None:
    columns, target = rows_whose_labels_differ_in_width()
    with pytest.raises(CalibrationError, match=r"no kind of score .* expected .* margin"):
        choose_scores(
            columns, plain_heads(2), target, set_differs_from(target), [], freeze=False, seed=0
        )


def test_the_simpler_kind_wins_within_the_tolerance() -> None:
    assert best_kind({"gate": (0.804, 0.8), "width": (0.8, 0.8)}) == "width"
    assert best_kind({"gate": (0.82, 0.8), "width": (0.8, 0.8)}) == "gate"
    assert best_kind({"gate": (None, 0.9), "margin": (None, 0.8)}) == "gate"
    assert best_kind({"gate": (None,), "agreement": (None,)}) == "agreement"


@given(st.integers(0, 2**32 - 1))
def test_widths_lie_between_the_labels_own_and_the_mean(seed: int) -> None:
    rng = np.random.default_rng(seed)
    distance = rng.uniform(0.01, 0.5, (50, 6))
    wrong = rng.random((50, 6)) < rng.uniform(0, 0.3, 6)
    widths = label_widths(distance, wrong)
    assert (widths >= LEAST_WIDTH).all()
    for label in np.flatnonzero(wrong.any(axis=0)):
        own, mean = distance[wrong[:, label], label].mean(), distance[wrong].mean()
        assert min(own, mean) - 1e-9 <= widths[label] <= max(own, mean) + 1e-9


def test_a_label_that_is_never_wrong_is_narrow_and_narrower_with_more_rows() -> None:
    distance = np.full((500, 2), 0.2)
    wrong = np.zeros((500, 2), bool)
    wrong[::10, 0] = True
    many, few = label_widths(distance, wrong), label_widths(distance[:20], wrong[:20])
    assert many[0] == pytest.approx(0.2)
    assert many[1] == pytest.approx(0.2 * PSEUDO_ROWS / (500 + PSEUDO_ROWS))
    assert LEAST_WIDTH < many[1] < few[1] < 0.2
    assert label_widths(distance, np.zeros_like(wrong)).tolist() == [LEAST_WIDTH] * 2


def test_evidence_that_hardly_varies_does_not_blow_up_a_gate() -> None:
    rng = np.random.default_rng(0)
    evidence = np.stack([rng.normal(size=400), np.full(400, 0.3), 1e-9 * rng.normal(size=400)], 1)
    kept = evidence[:, 0] + rng.normal(size=400) > 0
    gate = fit_gate(evidence, kept)
    assert gate is not None
    assert np.abs(gate.weights / gate.scale).max() < 10
    assert gate.weights[0] > 0.5
