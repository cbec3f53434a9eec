from __future__ import annotations

import json
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.live_reference import Limit
from models.manifest import GuaranteeKind, LabelFloor, Manifest
from models.set_losses import set_loss
from service.evidence import Evidence
from tests.manifests import full_manifest

LABELS, ROWS = 5, 4000
LOSSES = get_args(GuaranteeKind)
EACH = pytest.mark.parametrize("loss", LOSSES)


def manifest(label_epsilon: float | None = None, against: str = "model") -> Manifest:
    """Promises labels one by one where a label epsilon is given."""
    whole = full_manifest(labels=LABELS)
    promises = tuple(
        promise.model_copy(update={"against": against}) for promise in whole.certificate.promises
    )
    floor = tuple(
        LabelFloor(label=name, positives=90, needed=50, mean_loss=0.0 if k else None)
        for k, name in enumerate(whole.labels)
    )
    certificate = whole.certificate.model_copy(
        update={
            "promises": promises,
            "label_epsilon": label_epsilon,
            "label_floor": floor if label_epsilon else (),
        }
    )
    return whole.model_copy(update={"certificate": certificate})


def limit(loss: GuaranteeKind, mean_loss: float) -> Limit:
    return Limit(guarantee=loss, mean_loss=mean_loss, source="promised")


def answers(seed: int, wrong: float, rows: int = ROWS) -> tuple[np.ndarray, np.ndarray]:
    """Label sets of which a share of the decisions was another one early: bool (n, L) twice."""
    rng = np.random.default_rng(seed)
    full = rng.random((rows, LABELS)) < 0.4
    return full ^ (rng.random(full.shape) < wrong), full


def watched(evidence: Evidence, early: np.ndarray, full: np.ndarray) -> Evidence:
    for row, target in zip(early, full, strict=True):
        evidence.see(row, target)
    return evidence


@EACH
def test_a_loss_above_the_limit_is_found_and_one_below_is_not(loss: GuaranteeKind) -> None:
    early, full = answers(0, wrong=0.02)
    lost = set_loss(loss, early, full).mean()
    kept = watched(Evidence([limit(loss, 1.3 * lost)], manifest()), early, full)
    broken = watched(Evidence([limit(loss, 0.6 * lost)], manifest()), early, full)
    assert kept.value < 1
    assert broken.value > 1000


@EACH
def test_the_mean_loss_of_late_is_told(loss: GuaranteeKind) -> None:
    early, full = answers(1, wrong=0.1, rows=1500)
    evidence = Evidence([limit(loss, 0.5)], manifest())
    assert evidence.losses == {loss: 0.0}
    watched(evidence, early, full)
    assert evidence.losses[loss] == pytest.approx(
        set_loss(loss, early[-1000:], full[-1000:]).mean()
    )
    assert evidence.limits == {loss: 0.5}
    assert evidence.rows == 1500


def test_false_alarms_stay_below_alpha_at_the_limit() -> None:
    """Two promises and the labels' at once, each exactly at its limit."""
    runs, alpha, alarms = 60, 0.2, 0
    limits = [limit("set-agreement", 1 - 0.98**LABELS), limit("hamming", 0.02)]
    for seed in range(runs):
        evidence = Evidence(limits, manifest(label_epsilon=0.02))
        early, full = answers(seed, wrong=0.02, rows=600)
        for row, target in zip(early, full, strict=True):
            evidence.see(row, target)
            if evidence.value >= 1 / alpha:
                alarms += 1
                break
    assert alarms <= runs * alpha + 3 * np.sqrt(runs * alpha * (1 - alpha))


def test_one_promise_of_several_is_enough() -> None:
    early, full = answers(2, wrong=0.02)
    limits = [limit("set-agreement", 0.5), limit("hamming", 0.005)]
    assert watched(Evidence(limits, manifest()), early, full).value > 1000


def test_a_label_that_loses_its_positives_is_found() -> None:
    _, full = answers(3, wrong=0.0)
    early = full.copy()
    early[:, 2] &= np.random.default_rng(0).random(ROWS) < 0.9
    limits = [limit("set-agreement", 0.5)]
    assert watched(Evidence(limits, manifest(label_epsilon=0.02)), early, full).value > 1000
    assert watched(Evidence(limits, manifest(label_epsilon=0.3)), early, full).value < 1


def test_labels_without_a_promise_and_promises_towards_labels_are_not_watched() -> None:
    _, full = answers(4, wrong=0.0)
    early = full.copy()
    early[:, 0] = False  # the label with too few positives
    limits = [limit("set-agreement", 0.5)]
    assert watched(Evidence(limits, manifest(0.02)), early, full).value < 1
    early[:, 2] = False
    towards_labels = manifest(0.02, against="labels")
    assert Evidence(limits, towards_labels).state()["labels"] == []


@given(st.lists(st.sampled_from(LOSSES), unique=True), st.integers(0, 500))
@settings(max_examples=20, deadline=None)
def test_a_state_goes_through_json_and_on(losses: list[GuaranteeKind], rows: int) -> None:
    early, full = answers(5, wrong=0.2, rows=rows + 50)
    limits = [limit(loss, 0.1) for loss in losses]
    first = watched(Evidence(limits, manifest(0.05)), early[:rows], full[:rows])
    second = Evidence(limits, manifest(0.05))
    second.restore(json.loads(json.dumps(first.state())))
    assert (second.value, second.rows) == (first.value, first.rows)
    watched(first, early[rows:], full[rows:])
    watched(second, early[rows:], full[rows:])
    assert second.value == first.value


@pytest.mark.parametrize(
    "damage",
    [
        lambda state: {},
        lambda state: {**state, "promises": {}},
        lambda state: {**state, "labels": state["labels"][1:]},
        lambda state: {**state, "rows": "many"},
        lambda state: {**state, "promises": {"hamming": {"rows": 1}}},
    ],
)
def test_a_damaged_state_is_refused(damage: object) -> None:
    early, full = answers(6, wrong=0.2, rows=30)
    limits = [limit("hamming", 0.1)]
    state = watched(Evidence(limits, manifest(0.05)), early, full).state()
    with pytest.raises((KeyError, TypeError, ValueError)):
        Evidence(limits, manifest(0.05)).restore(damage(state))  # type: ignore[operator]


def test_a_capital_below_zero_is_refused() -> None:
    state = watched(Evidence([limit("hamming", 0.1)], manifest()), *answers(7, 0.2, 9)).state()
    state["promises"]["hamming"]["bettors"][0]["capital"] = -1.0
    with pytest.raises(ValueError, match="not below 0"):
        Evidence([limit("hamming", 0.1)], manifest()).restore(state)
