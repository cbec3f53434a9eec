from __future__ import annotations

from itertools import combinations

import numpy as np
import onnx
import pytest

from models.bundle import Bundle
from models.errors import GraphError
from models.graph import STAGE_OUTPUTS, split_stages
from models.heads import output_name
from models.runtime import StageRuntime, at_exits, open_session


@pytest.fixture(scope="module")
def model(bundle: Bundle) -> onnx.ModelProto:
    return onnx.load_model_from_string(bundle.model)


def run_monolith(bundle: Bundle, rows: np.ndarray, exit_number: int) -> list[np.ndarray]:
    session = open_session(bundle.model)
    names = [output_name(exit_number, kind) for kind in ("probabilities", "labels", "score")]
    return session.run(names, {bundle.manifest.inputs[0].name: rows})


@pytest.mark.parametrize("batch", [1, 2, 7, 32])
def test_staged_equals_monolith_while_rows_drop_out(
    bundle: Bundle, runtime: StageRuntime, rows: np.ndarray, batch: int
) -> None:
    rng = np.random.default_rng(batch)
    present = np.arange(batch)
    carry = (rows[:batch],)
    for stage in range(1, runtime.depth + 1):
        answers, carry = runtime.run(stage, carry)
        probabilities, labels, score = run_monolith(bundle, rows[:batch], stage)
        np.testing.assert_allclose(answers.probabilities, probabilities[present], atol=1e-4)
        np.testing.assert_allclose(answers.score, score[present], atol=1e-4)
        clear = score[present] > 1e-4  # nearer to a label's threshold the set may flip
        np.testing.assert_array_equal(answers.labels[clear], labels[present][clear])
        stays = rng.random(len(present)) < 0.7
        stays[rng.integers(len(present))] = True
        present = present[stays]
        carry = tuple(tensor[stays] for tensor in carry)


def test_answers_do_not_depend_on_the_batch(runtime: StageRuntime, rows: np.ndarray) -> None:
    together = runtime.all_exits((rows[:40],), batch=40)
    alone = runtime.all_exits((rows[:40],), batch=1)
    for one, other in zip(together, alone, strict=True):
        np.testing.assert_allclose(one.probabilities, other.probabilities, atol=1e-4)


def test_every_weight_lies_in_one_stage(bundle: Bundle, model: onnx.ModelProto) -> None:
    stages = split_stages(model, bundle.manifest.carries)
    weights = [
        {tensor.name for tensor in stage.graph.initializer if np.prod(tensor.dims) > 16}
        for stage in stages
    ]
    assert all(weights)
    assert all(not one & other for one, other in combinations(weights, 2))


def test_stages_are_valid_models(bundle: Bundle, model: onnx.ModelProto) -> None:
    for stage in split_stages(model, bundle.manifest.carries):
        onnx.checker.check_model(stage, full_check=True)


def test_a_carry_that_does_not_exist_is_named(model: onnx.ModelProto) -> None:
    with pytest.raises(GraphError, match="no_such_tensor"):
        split_stages(model, [["carry1"], ["no_such_tensor"], ["carry3"]])


def test_a_cut_that_leaves_a_tensor_behind_is_refused(model: onnx.ModelProto) -> None:
    # the logits of exit 1 do not lead to stage 2, which would have to read the image again
    with pytest.raises(GraphError, match="stage 2 reads tensor"):
        split_stages(model, [["exit1_logits"], ["carry2"], ["carry3"]])


@pytest.fixture(params=["exit1_labels", "exit1_probabilities", "exit1_score"])
def carried(request: pytest.FixtureRequest) -> str:
    """An answer of exit 1 that crosses the cut behind it."""
    return str(request.param)


def carries_with(bundle: Bundle, carried: str) -> list[list[str]]:
    first, *others = bundle.manifest.carries
    return [[*(name for name in first if name != carried), carried], *map(list, others)]


def test_an_answer_that_is_carried_on_is_given_once(
    bundle: Bundle, model: onnx.ModelProto, carried: str
) -> None:
    carries = carries_with(bundle, carried)
    stages = split_stages(model, carries)
    for stage in stages:
        names = [value.name for value in stage.graph.output]
        assert len(set(names)) == len(names)
        onnx.checker.check_model(stage, full_check=True)
    answers = [output_name(1, kind) for kind in STAGE_OUTPUTS]
    others = [name for name in carries[0] if name not in answers]
    assert [value.name for value in stages[0].graph.output] == [*answers, *others]
    assert [value.name for value in stages[1].graph.input] == carries[0]


def test_a_carried_answer_reaches_the_next_stage(
    bundle: Bundle, rows: np.ndarray, carried: str
) -> None:
    runtime = StageRuntime(bundle.model, carries_with(bundle, carried))
    answers, carry = runtime.run(1, (rows[:3],))
    np.testing.assert_array_equal(carry[-1], getattr(answers, carried.removeprefix("exit1_")))
    deeper, _ = runtime.run(2, carry)
    assert len(deeper) == 3


def test_rows_are_answered_at_their_own_exit(runtime: StageRuntime, rows: np.ndarray) -> None:
    answers = runtime.all_exits((rows[:8],))
    exits = np.array([1, 2, 3, 4, 4, 3, 2, 1])
    picked = at_exits(answers, exits)
    for row, number in enumerate(exits):
        np.testing.assert_array_equal(
            picked.probabilities[row], answers[number - 1].probabilities[row]
        )
