from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.random_encoder import exit_thresholds, random_encoder, random_rows
from models.runtime import StageRuntime

SIZES = {"layers": 3, "hidden": 24, "heads": 2, "inner": 32, "vocabulary": 60, "positions": 40}
MODEL, CARRIES = random_encoder(**SIZES)


@pytest.fixture(scope="module")
def runtime() -> StageRuntime:
    return StageRuntime(MODEL, CARRIES)


def test_it_is_a_valid_model_with_an_exit_behind_every_layer() -> None:
    model = onnx.load_model_from_string(MODEL)
    onnx.checker.check_model(model, full_check=True)
    scores = [value.name for value in model.graph.output if value.name.endswith("_score")]
    assert scores == ["exit1_score", "exit2_score", "exit3_score"]
    assert [carry[1] for carry in CARRIES] == ["attention_mask"] * 2


def test_staged_equals_whole(runtime: StageRuntime) -> None:
    rows = random_rows(6, 20, vocabulary=60)
    for number, answers in enumerate(runtime.all_exits(rows), start=1):
        whole, _ = StageRuntime(MODEL, CARRIES, exits=(number,)).run(1, rows)
        assert np.isfinite(answers.score).all()
        np.testing.assert_allclose(answers.probabilities, whole.probabilities, atol=1e-5)


def test_rows_are_answered_differently_and_alike_with_more_padding(runtime: StageRuntime) -> None:
    ids, mask = random_rows(6, 20, vocabulary=60)
    answers = runtime.all_exits((ids, mask))[-1]
    assert len(np.unique(answers.score)) == 6
    padded = tuple(np.pad(tensor, ((0, 0), (0, 12))) for tensor in (ids, mask))
    np.testing.assert_allclose(
        runtime.all_exits(padded)[-1].probabilities, answers.probabilities, atol=1e-5
    )


def test_the_seed_makes_the_model() -> None:
    assert random_encoder(seed=0, **SIZES)[0] == MODEL
    assert random_encoder(seed=1, **SIZES)[0] != MODEL


@settings(deadline=None, max_examples=25)
@given(st.lists(st.integers(0, 10), min_size=3, max_size=3).filter(sum))
def test_given_shares_of_rows_leave_at_each_exit(runtime: StageRuntime, counts: list[int]) -> None:
    rows = random_rows(sum(counts), 12, vocabulary=60)
    thresholds = exit_thresholds(runtime, rows, np.array(counts) / sum(counts))
    present = np.arange(sum(counts))
    for answers, threshold, count in zip(runtime.all_exits(rows), thresholds, counts, strict=True):
        leaves = answers.score[present] >= threshold
        assert leaves.sum() == count
        present = present[~leaves]


@pytest.mark.parametrize("shares", [(0.5, 0.5), (0.5, 0.5, 0.5), (1.5, -0.5, 0)])
def test_shares_that_are_none_are_refused(runtime: StageRuntime, shares: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="expected 3 that are together 1"):
        exit_thresholds(runtime, random_rows(4, 8, vocabulary=60), shares)
