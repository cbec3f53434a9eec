from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from calibration.checkpoint import Checkpoint, CheckpointFile
from models.errors import CalibrationError

IDENTITY = {"training.epochs": 8, "training.aux_weight": (0.5, 1.0), "data": "ab12"}


def make_checkpoint(value: float = 1.0) -> Checkpoint:
    return Checkpoint(
        epochs=[{"epoch": 1, "exits": ({"loss": 0.5},)}],
        weights={"stage.weight": torch.full((2, 3), value)},
        best_weights=None,
        optimizer={"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 0.1}]},
        generators={"cpu": torch.get_rng_state()},
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "runs" / "one.pt"


def test_what_is_written_is_read(path: Path) -> None:
    file = CheckpointFile(path, IDENTITY)
    file.write(make_checkpoint())
    found = file.read()
    assert found.epochs == make_checkpoint().epochs
    assert found.optimizer == make_checkpoint().optimizer
    torch.testing.assert_close(found.weights, make_checkpoint().weights)
    assert torch.equal(found.generators["cpu"], torch.get_rng_state())


def test_the_file_holds_no_code(path: Path) -> None:
    CheckpointFile(path, IDENTITY).write(make_checkpoint())
    assert set(torch.load(path, weights_only=True)) > {"weights", "optimizer", "identity"}


def test_a_write_that_fails_leaves_the_old_checkpoint(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = CheckpointFile(path, IDENTITY)
    file.write(make_checkpoint(1.0))

    def full_disk(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(os, "replace", full_disk)
    with pytest.raises(OSError, match="no space left"):
        file.write(make_checkpoint(2.0))
    assert torch.equal(file.read().weights["stage.weight"], torch.full((2, 3), 1.0))
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("training.epochs", 9, "its training.epochs is 8, expected 9"),
        ("training.aux_weight", (0.5, 0.9), r"its training.aux_weight is \[0.5, 1.0\]"),
        ("new", 1, "its new is None, expected 1"),
    ],
)
def test_a_checkpoint_of_another_training_is_refused(
    path: Path, field: str, value: Any, message: str
) -> None:
    CheckpointFile(path, IDENTITY).write(make_checkpoint())
    with pytest.raises(CalibrationError, match=message):
        CheckpointFile(path, {**IDENTITY, field: value}).read()


def test_a_field_that_is_gone_is_named(path: Path) -> None:
    CheckpointFile(path, IDENTITY).write(make_checkpoint())
    with pytest.raises(CalibrationError, match="its data is 'ab12', expected None"):
        CheckpointFile(path, {k: v for k, v in IDENTITY.items() if k != "data"}).read()


def test_a_missing_checkpoint_is_named(path: Path) -> None:
    with pytest.raises(CalibrationError, match="start without --resume"):
        CheckpointFile(path, IDENTITY).read()


class Trap:
    """Unpickling it would make a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("kind", ["code", "bytes", "empty", "cut short", "other tensors"])
def test_files_that_are_no_checkpoints_are_refused(path: Path, tmp_path: Path, kind: str) -> None:
    path.parent.mkdir()
    if kind == "code":
        torch.save({"format": 1, "identity": Trap(tmp_path / "sprung")}, path)
    elif kind == "other tensors":
        torch.save({"weights": torch.ones(3)}, path)
    elif kind == "cut short":
        CheckpointFile(path, IDENTITY).write(make_checkpoint())
        path.write_bytes(path.read_bytes()[:-200])
    else:
        path.write_bytes(pickle.dumps([1]) if kind == "bytes" else b"")
    with pytest.raises(CalibrationError, match="not a checkpoint of offramp, or damaged"):
        CheckpointFile(path, IDENTITY).read()
    assert not (tmp_path / "sprung").exists()


def test_another_format_is_refused(path: Path) -> None:
    path.parent.mkdir()
    torch.save({"format": 99}, path)
    with pytest.raises(CalibrationError, match="format 99, expected 1"):
        CheckpointFile(path, IDENTITY).read()


def test_a_new_training_does_not_overwrite(path: Path) -> None:
    file = CheckpointFile(path, IDENTITY)
    file.refuse_existing()
    file.write(make_checkpoint())
    with pytest.raises(CalibrationError, match="--resume, or overwrite it by --force"):
        file.refuse_existing()
