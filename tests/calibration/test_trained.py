from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.progress import Progress

from calibration.architecture import ArchitectureOptions
from calibration.dataset import Dataset, from_arrays
from calibration.measure import micro_f1
from calibration.trained import Trained, TrainOptions, train
from models.encoders import open_encoder
from models.encoding import RawRows
from models.errors import CalibrationError
from models.runtime import open_session
from tests.tiny_encoders import WORDS, write_encoder

QUIET = Progress(disable=True)
QUICK = {"epochs": 6, "batch": 32, "peak_learning_rate": 1e-2, "schedule": "joint"}
ROWS = 300
RNG = np.random.default_rng(0)
NUMBERS = RNG.normal(5, 3, (ROWS, 6)).astype(np.float32)
LABELS = (NUMBERS - 5) @ RNG.normal(size=(6, 3)) > 0
SPLIT = np.repeat([0, 3], [240, 60]).astype(np.int8)
TEST_ROWS = np.flatnonzero(SPLIT == 3)
SMALL = ArchitectureOptions(network={"width": 32, "blocks": 3, "dropout": 0.1})


def tabular() -> Dataset:
    return from_arrays(NUMBERS, LABELS, ("a", "b", "c"))


def texts() -> tuple[Dataset, list[str]]:
    """A text has label k when word k occurs in it."""
    rows = [RNG.choice(WORDS, RNG.integers(1, 25)) for _ in range(ROWS)]
    labels = np.array([[WORDS[k] in row for k in range(3)] for row in rows])
    raw = [" ".join(row) for row in rows]

    def read(size: int) -> Any:
        return (raw[start : start + size] for start in range(0, ROWS, size))

    return replace(tabular(), kind="text", labels=labels, read=read), raw


def answers(trained: Trained, raw: RawRows) -> list[np.ndarray]:
    """Logits of every exit by the exported graph, on rows encoded as recorded."""
    backbone = trained.backbone
    encoder = open_encoder(trained.preprocessing, backbone.inputs, trained.files)
    session = open_session(backbone.model.SerializeToString())
    found = [np.zeros((len(raw), 3), np.float32) for _ in session.get_outputs()]
    for group in encoder.encode(raw).groups:
        names = [spec.name for spec in backbone.inputs]
        logits = session.run(None, dict(zip(names, group.tensors, strict=True)))
        for into, part in zip(found, logits, strict=True):
            into[group.rows] = part
    return found


def test_numbers_are_learnt_and_exported() -> None:
    trained = train(TrainOptions(SMALL, QUICK), tabular(), SPLIT, QUIET)
    assert len(trained.backbone.carries) == 2
    for logits in answers(trained, NUMBERS[TEST_ROWS]):
        assert micro_f1(logits > 0, LABELS[TEST_ROWS]) > 0.85


def test_texts_are_learnt_and_exported(tmp_path: Path) -> None:
    data, raw = texts()
    options = TrainOptions(
        ArchitectureOptions(str(write_encoder(tmp_path))), {**QUICK, "epochs": 8}
    )
    trained = train(options, data, SPLIT, QUIET)
    assert set(trained.files) == {"tokenizer.json"}
    assert trained.backbone.carries == (("carry1", "attention_mask"), ("carry2", "attention_mask"))
    for logits in answers(trained, [raw[row] for row in TEST_ROWS]):
        assert micro_f1(logits > 0, data.labels[TEST_ROWS]) > 0.8


def test_rows_outside_the_fit_split_are_not_looked_at() -> None:
    spoilt = NUMBERS.copy()
    spoilt[TEST_ROWS] = np.nan
    data = from_arrays(spoilt, LABELS, ("a", "b", "c"))
    one = train(TrainOptions(SMALL, {**QUICK, "epochs": 1}), data, SPLIT, QUIET)
    other = train(TrainOptions(SMALL, {**QUICK, "epochs": 1}), tabular(), SPLIT, QUIET)
    assert one.preprocessing == other.preprocessing
    assert one.facts["epochs"] == other.facts["epochs"]


def test_bad_rows_are_refused_or_skipped() -> None:
    spoilt = NUMBERS.copy()
    spoilt[[5, 50]] = np.inf
    data = from_arrays(spoilt, LABELS, ("a", "b", "c"))
    options = TrainOptions(SMALL, {**QUICK, "epochs": 1})
    with pytest.raises(CalibrationError, match="row 5: found inf"):
        train(options, data, SPLIT, QUIET)
    rows = train(replace(options, skip_bad=True), data, SPLIT, QUIET).facts["rows"]
    assert rows["train"] + rows["held_out"] == 238
    everything = from_arrays(NUMBERS * np.nan, LABELS, ("a", "b", "c"))
    with pytest.raises(CalibrationError, match="none of 240 rows can be encoded, from row 0 on"):
        train(replace(options, skip_bad=True), everything, SPLIT, QUIET)


def test_mistakes_are_told_before_the_rows_are_encoded(monkeypatch: pytest.MonkeyPatch) -> None:
    import calibration.trained as module

    def encode(*_: object) -> None:
        raise AssertionError("rows were encoded")

    monkeypatch.setattr(module, "_encode", encode)
    wrong = TrainOptions(SMALL, {**QUICK, "aux_weight": (1.0, 1.0)})
    with pytest.raises(CalibrationError, match="2 weights, but the network has 3 exits"):
        train(wrong, tabular(), SPLIT, QUIET)


def test_facts_tell_of_every_epoch_in_json() -> None:
    trained = train(TrainOptions(SMALL, {**QUICK, "epochs": 2}), tabular(), SPLIT, QUIET)
    facts = json.loads(json.dumps(trained.facts))
    assert facts["architecture"] == "mlp"
    assert facts["rows"] == {"train": 216, "held_out": 24}
    assert [epoch["epoch"] for epoch in facts["epochs"]] == [1, 2]
    assert [state["exit"] for state in facts["epochs"][0]["exits"]] == [1, 2, 3]
    assert facts["training"]["epochs"] == 2


def test_the_global_generator_is_left_as_it_was() -> None:
    import torch

    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    train(TrainOptions(SMALL, {**QUICK, "epochs": 1}), tabular(), SPLIT, QUIET)
    assert torch.equal(torch.rand(2), expected)


def test_a_finished_training_resumes_to_the_same_backbone(tmp_path: Path) -> None:
    options = TrainOptions(SMALL, {**QUICK, "epochs": 2}, tmp_path / "run.pt")
    trained = train(options, tabular(), SPLIT, QUIET)
    resumed = train(replace(options, resume=True), tabular(), SPLIT, QUIET)
    assert resumed.facts["epochs"] == trained.facts["epochs"]
    for one, other in zip(answers(trained, NUMBERS), answers(resumed, NUMBERS), strict=True):
        np.testing.assert_array_equal(one, other)


def test_checkpoints_of_other_trainings_are_kept_apart(tmp_path: Path) -> None:
    options = TrainOptions(SMALL, {**QUICK, "epochs": 1}, tmp_path / "run.pt")
    train(options, tabular(), SPLIT, QUIET)
    with pytest.raises(CalibrationError, match="already: go on with it by --resume"):
        train(options, tabular(), SPLIT, QUIET)
    again = replace(options, resume=True)
    with pytest.raises(CalibrationError, match=r"its training\.seed is 0, expected 1"):
        train(replace(again, training={**QUICK, "epochs": 1, "seed": 1}), tabular(), SPLIT, QUIET)
    wider = replace(SMALL, network={**SMALL.network, "width": 48})
    with pytest.raises(CalibrationError, match=r"its network\.width is 32, expected 48"):
        train(replace(again, architecture=wider), tabular(), SPLIT, QUIET)
    with pytest.raises(CalibrationError, match="its data is"):
        train(again, from_arrays(NUMBERS, ~LABELS, ("a", "b", "c")), SPLIT, QUIET)
    train(replace(options, force=True), tabular(), SPLIT, QUIET)


def test_resuming_needs_a_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match="--resume needs the file"):
        TrainOptions(resume=True)
    options = TrainOptions(SMALL, QUICK, tmp_path / "none.pt", resume=True)
    with pytest.raises(CalibrationError, match="no checkpoint"):
        train(options, tabular(), SPLIT, QUIET)


def test_too_few_rows_are_refused() -> None:
    split = np.full(ROWS, 3, np.int8)
    split[:9] = 0
    with pytest.raises(CalibrationError, match="the fit split has 9 rows, expected at least 10"):
        train(TrainOptions(SMALL, QUICK), tabular(), split, QUIET)
