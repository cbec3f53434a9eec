from __future__ import annotations

from typing import Any

import pytest

from calibration.training_config import TrainingConfig
from models.errors import CalibrationError


@pytest.mark.parametrize(
    ("schedule", "phases"),
    [
        ("joint", (("joint", 10),)),
        ("mixed", (("backbone", 3), ("joint", 7))),
        ("backbone", (("backbone", 3), ("heads", 7))),
    ],
)
def test_schedules_are_made_of_phases(schedule: Any, phases: object) -> None:
    assert TrainingConfig(epochs=10, schedule=schedule, backbone_share=0.3).phases == phases


@pytest.mark.parametrize("share", [0.01, 0.99])
def test_every_phase_has_an_epoch(share: float) -> None:
    phases = TrainingConfig(epochs=3, backbone_share=share).phases
    assert sum(epochs for _, epochs in phases) == 3
    assert all(epochs > 0 for _, epochs in phases)


def test_a_single_epoch_trains_every_exit() -> None:
    assert TrainingConfig(epochs=1).phases == (("joint", 1),)


def test_phases_weigh_what_they_train() -> None:
    config = TrainingConfig(schedule="backbone", aux_weight=0.5)
    assert config.phase_weights("backbone", 3) == (0, 0, 1)
    assert config.phase_weights("joint", 3) == (0.5, 0.5, 1)
    assert config.phase_weights("heads", 3) == (0.5, 0.5, 0)


def test_weights_may_be_given_per_exit() -> None:
    assert TrainingConfig(aux_weight=(0.1, 0.2, 0.7)).exit_weights(3) == (0.1, 0.2, 0.7)


def test_the_learning_rate_rises_to_its_peak_and_falls() -> None:
    config = TrainingConfig(peak_learning_rate=1.0)
    rates = [config.learning_rate(step / 100) for step in range(101)]
    assert max(rates) == rates[20] == pytest.approx(1)
    assert rates[:21] == sorted(rates[:21])
    assert rates[20:] == sorted(rates[20:], reverse=True)
    assert rates[0] == pytest.approx(1 / 25)
    assert rates[-1] < 1e-5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0}, "epochs is 0"),
        ({"peak_learning_rate": float("nan")}, "peak_learning_rate is nan"),
        ({"patience": 0}, "patience is 0"),
        ({"held_out": 1.0}, r"held_out is 1\.0"),
        ({"aux_weight": -1.0}, r"aux_weight is -1\.0"),
        ({"aux_weight": (1.0, float("inf"))}, "aux_weight is"),
        ({"aux_weight": ()}, r"aux_weight is \(\)"),
    ],
)
def test_values_out_of_range_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(CalibrationError, match=message):
        TrainingConfig(**changes)


def test_weights_that_do_not_fit_the_network_are_refused() -> None:
    with pytest.raises(CalibrationError, match="2 weights, but the network has 3 exits"):
        TrainingConfig(aux_weight=(1.0, 1.0)).exit_weights(3)
    with pytest.raises(CalibrationError, match="gives the last exit 0"):
        TrainingConfig(aux_weight=(1.0, 0.0)).exit_weights(2)
    with pytest.raises(CalibrationError, match="heads untrained"):
        TrainingConfig(aux_weight=0.0).phase_weights("heads", 3)
