from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from calibration.epoch_profile import as_records, from_records, profile_epoch

RNG = np.random.default_rng(0)
LABELS = RNG.random((80, 4)) < 0.3
SURE = np.where(LABELS, 30.0, -30.0).astype(np.float32)
BLIND = np.zeros_like(SURE)


def test_exits_are_measured_in_their_order() -> None:
    profile = profile_epoch(3, "joint", 0.5, [BLIND, SURE], LABELS, seed=0)
    blind, sure = profile.exits
    assert (blind.exit, sure.exit) == (1, 2)
    assert sure.micro_f1 == 1
    assert sure.loss == pytest.approx(0, abs=1e-6)
    assert sure.w_labels == pytest.approx(0, abs=1e-6)
    assert blind.loss == pytest.approx(np.log(2))
    # every label is half a unit away, in each of the four dimensions
    assert blind.w_labels == pytest.approx(1.0)
    assert blind.w_labels_sliced > 0.5
    assert sure.w_teacher == 0  # it is the last exit itself
    assert blind.w_teacher == pytest.approx(1.0, abs=1e-6)


def test_the_loss_is_that_of_the_training() -> None:
    logits = RNG.normal(size=LABELS.shape).astype(np.float32) * 50
    profile = profile_epoch(1, "joint", 0.0, [logits], LABELS, seed=0)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(
        torch.from_numpy(logits), torch.from_numpy(LABELS).float()
    )
    assert profile.exits[0].loss == pytest.approx(expected.item(), rel=1e-5)


def test_a_label_is_answered_from_a_half_on() -> None:
    close = np.where(LABELS, 0.1, -0.1).astype(np.float32)
    low, exact, high = profile_epoch(
        1, "joint", 0.0, [close - 0.2, close, close + 0.2], LABELS, seed=0
    ).exits
    assert (low.micro_f1, exact.micro_f1) == (0, 1)
    assert high.micro_f1 == pytest.approx(2 * LABELS.mean() / (LABELS.mean() + 1))


def test_the_watched_loss_weighs_the_exits() -> None:
    profile = profile_epoch(1, "joint", 0.0, [BLIND, SURE], LABELS, seed=0)
    assert profile.held_out_loss((0.5, 1.0)) == pytest.approx(0.5 * np.log(2), abs=1e-6)
    assert profile.held_out_loss((0.0, 1.0)) == pytest.approx(0, abs=1e-6)


def test_records_survive_json() -> None:
    epochs = [profile_epoch(k, "heads", 0.1, [BLIND, SURE], LABELS, 0) for k in (1, 2)]
    assert from_records(json.loads(json.dumps(as_records(epochs)))) == epochs


def test_the_line_names_epoch_phase_and_exits() -> None:
    line = profile_epoch(7, "backbone", 0.25, [BLIND, SURE], LABELS, 0).line()
    assert line.startswith("epoch 7 (backbone), loss 0.2500;")
    assert "W to labels 1.000 0.000" in line
