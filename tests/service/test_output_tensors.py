from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.errors import InvalidInput
from models.runtime import Answers
from service.output_tensors import OUTPUTS, PER_LABEL, ROW, check_outputs, output_tensors
from service.prediction import Prediction
from service.request import Routed

L = 3
subsets = st.lists(st.sampled_from(list(OUTPUTS)), unique=True)


def prediction(rows: int, seed: int = 0) -> Prediction:
    rng = np.random.default_rng(seed)
    probabilities = rng.random((rows, L), np.float32)
    answers = Answers(probabilities, probabilities > 0.5, rng.random(rows, np.float32))
    places, exits = rng.permutation(rows), rng.integers(1, 5, rows)
    routed = Routed(places, answers, exits, np.zeros(rows, int), np.zeros(rows))
    return Prediction(routed, rng.random(rows) > 0.5, 0.0, 1.0, {}, exits)


@given(st.integers(1, 5), subsets, st.booleans())
def test_tensors_are_those_asked_for_in_that_order(
    rows: int, wanted: list[str], streamed: bool
) -> None:
    tensors = output_tensors(prediction(rows), wanted, streamed)
    assert [t.name for t in tensors] == [*(wanted or OUTPUTS), *([ROW] if streamed else [])]
    for tensor in tensors[: len(wanted or OUTPUTS)]:
        assert tensor.array.dtype == OUTPUTS[tensor.name]
        assert tensor.shape == ((rows, L) if tensor.name in PER_LABEL else (rows,))
        assert tensor.array.flags.c_contiguous


def test_their_values_are_the_predictions() -> None:
    made = prediction(4)
    tensors = {tensor.name: tensor for tensor in output_tensors(made, streamed=True)}
    answers = made.routed.answers
    for name, expected in (
        ("labels", answers.labels),
        ("probabilities", answers.probabilities),
        ("exit", made.routed.exits),
        ("score", answers.score),
        ("certified", made.certified),
        (ROW, made.routed.rows),
    ):
        np.testing.assert_array_equal(tensors[name].array, expected)
    assert [tensors[name].datatype for name in ("exit", ROW)] == ["INT32", "INT32"]


@given(subsets)
def test_every_subset_of_outputs_may_be_asked_for(wanted: list[str]) -> None:
    check_outputs(wanted)


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        (["classes"], "found 'classes', expected any of labels, probabilities"),
        ([ROW], "found 'row'"),
        (["exit", "score", "exit"], "found 'exit' twice"),
    ],
)
def test_other_outputs_are_refused(wanted: list[str], words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        check_outputs(wanted)
