from __future__ import annotations

from typing import get_args

import numpy as np
import onnx
import pytest

from calibration.assembly import assemble, carries, check_served
from calibration.feature_columns import add_features
from calibration.layer_answers import (
    LayerHead,
    calibrated_head,
    chain_answers,
    chain_tensors,
    head_logits,
    layer_answers,
)
from calibration.layers import Layer, LayeredModel, logits_column
from models.errors import GraphError
from models.gate import Gate, evidence_width
from models.heads import HeadLayers
from models.measurements import ScoreKind
from models.preprocessing import TensorSpec
from models.runtime import Answers, StageRuntime, open_session
from models.scores import ScoreRule
from tests.tiny_models import labelled_rows, residual_mlp

LABELS, WIDTH, ROWS, DEPTH = 3, 64, 1500, 4

every_rule = pytest.mark.parametrize(
    ("kind", "freeze"), [(kind, freeze) for kind in get_args(ScoreKind) for freeze in (False, True)]
)


@pytest.fixture(scope="module")
def data() -> tuple[LayeredModel, np.ndarray, np.ndarray]:
    """Every block of a model as a candidate layer, rows and their label sets."""
    model = residual_mlp(DEPTH - 1, WIDTH)
    rows, labels = labelled_rows(model, ROWS)
    names = [f"carry{k}" for k in range(DEPTH - 1)]
    model, features = add_features(model, {name: rows for name in names}, mask=None)
    cuts = [*((name,) for name in names), ()]
    columns = [*features, logits_column(model, "logits", LABELS)]
    layers = tuple(map(Layer, [*names, "full depth"], cuts, columns))
    inputs = (TensorSpec(name="x", row_shape=(WIDTH,)),)
    return LayeredModel(model, inputs, layers, (1.0,) * DEPTH), rows, labels


@pytest.fixture(scope="module")
def columns(data: tuple[LayeredModel, np.ndarray, np.ndarray]) -> list[np.ndarray]:
    """What the pass keeps of every layer."""
    layered, rows, _ = data
    model = onnx.ModelProto()
    model.CopyFrom(layered.model)
    del model.graph.output[:]
    names = [layer.column.tensor for layer in layered.layers]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    return open_session(model.SerializeToString()).run(names, {"x": rows})


@pytest.fixture(scope="module")
def heads(
    data: tuple[LayeredModel, np.ndarray, np.ndarray], columns: list[np.ndarray]
) -> list[LayerHead]:
    layered, _, labels = data
    rng = np.random.default_rng(0)
    weights = [
        None
        if layer.has_logits
        else HeadLayers((rng.normal(size=(WIDTH, LABELS)).astype(np.float32),), (np.zeros(LABELS),))
        for layer in layered.layers
    ]
    return [calibrated_head(column, labels, w) for column, w in zip(columns, weights, strict=True)]


def ruled(heads: list[LayerHead], kind: ScoreKind, freeze: bool) -> list[LayerHead]:
    rng = np.random.default_rng(1)
    result = []
    for number, head in enumerate(heads, start=1):
        width = evidence_width(number, LABELS)
        gate = Gate(rng.normal(size=width), 0.0, np.zeros(width), np.ones(width))
        result.append(head.scored_by(ScoreRule(kind, np.full(LABELS, 0.1), gate, freeze)))
    return result


def served(
    data: tuple[LayeredModel, np.ndarray, np.ndarray], heads: list[LayerHead]
) -> StageRuntime:
    layers = data[0].layers
    model = assemble(data[0], layers, heads).SerializeToString()
    return StageRuntime(model, carries(layers, heads))


def assert_same(found: Answers, expected: Answers) -> None:
    np.testing.assert_allclose(found.probabilities, expected.probabilities, atol=1e-5)
    np.testing.assert_array_equal(found.labels, expected.labels)
    np.testing.assert_allclose(found.score, expected.score, atol=1e-5)


@every_rule
def test_a_chain_answers_what_the_stages_serve(
    data: tuple[LayeredModel, np.ndarray, np.ndarray],
    columns: list[np.ndarray],
    heads: list[LayerHead],
    kind: ScoreKind,
    freeze: bool,
) -> None:
    scored = ruled(heads, kind, freeze)
    runtime = served(data, scored)
    for found, expected in zip(
        runtime.all_exits((data[1],)), chain_answers(columns, scored), strict=True
    ):
        assert len(found) == ROWS  # more than one batch of the offline run
        assert_same(found, expected)


def test_rules_without_memory_carry_nothing_but_the_layers_carry(
    data: tuple[LayeredModel, np.ndarray, np.ndarray], heads: list[LayerHead]
) -> None:
    layers = data[0].layers
    plain = [layer.carry for layer in layers[:-1]]
    assert carries(layers, heads) == plain
    assert carries(layers, ruled(heads, "width", freeze=False)) == plain
    with_state = carries(layers, ruled(heads, "agreement", freeze=True))
    assert with_state[0] == (*plain[0], "exit1_probabilities", "exit1_labels", "exit1_clear")
    assert with_state[1][-1] == "exit2_frozen"


def test_a_last_exit_that_answers_on_its_own_reads_nothing_of_the_one_before(
    data: tuple[LayeredModel, np.ndarray, np.ndarray], heads: list[LayerHead]
) -> None:
    layers = data[0].layers
    scored = [*ruled(heads, "margin", freeze=True)[:-1], heads[-1]]
    assert carries(layers, scored)[-1] == layers[-2].carry
    assert carries(layers, scored)[-2] != layers[-3].carry
    last = served(data, scored).all_exits((data[1],))[-1]
    assert_same(last, served(data, heads).all_exits((data[1],))[-1])


@pytest.mark.parametrize("kind", ["margin", "width", "log-probability"])
def test_without_memory_a_chain_is_its_layers_one_by_one(
    columns: list[np.ndarray], heads: list[LayerHead], kind: ScoreKind
) -> None:
    scored = ruled(heads, kind, freeze=False)
    for column, head, expected in zip(columns, scored, chain_answers(columns, scored), strict=True):
        assert_same(layer_answers(column, head), expected)


@pytest.mark.parametrize(
    ("kind", "freeze"), [("agreement", False), ("gate", False), ("width", True)]
)
def test_a_layer_alone_has_nothing_to_look_back_at_and_scores_by_margin(
    columns: list[np.ndarray], heads: list[LayerHead], kind: ScoreKind, freeze: bool
) -> None:
    scored = ruled(heads, kind, freeze)
    assert_same(layer_answers(columns[1], scored[1]), layer_answers(columns[1], heads[1]))


def test_inner_tensors_can_be_read(columns: list[np.ndarray], heads: list[LayerHead]) -> None:
    names = ["exit2_evidence", "exit1_logits"]
    evidence, logits = chain_tensors(columns, ruled(heads, "gate", freeze=False), names)
    assert evidence.shape == (ROWS, evidence_width(2, LABELS))
    np.testing.assert_allclose(logits, head_logits(columns[0], heads[0].layers), atol=1e-4)


@pytest.mark.parametrize("freeze", [False, True])
def test_the_stages_are_compared_with_the_chain(
    data: tuple[LayeredModel, np.ndarray, np.ndarray],
    columns: list[np.ndarray],
    heads: list[LayerHead],
    freeze: bool,
) -> None:
    scored = ruled(heads, "log-probability", freeze)
    runtime = served(data, scored)
    expected = chain_answers(columns, scored)
    check_served(runtime, (data[1],), expected, scored)
    flipped = expected[-1].labels.copy()
    flipped[:, 0] ^= True
    wrong = [*expected[:-1], Answers(expected[-1].probabilities, flipped, expected[-1].score)]
    with pytest.raises(GraphError, match=rf"exit {DEPTH} .* labels that are not near"):
        check_served(runtime, (data[1],), wrong, scored)


def test_labels_that_rounding_may_decide_are_not_compared(
    data: tuple[LayeredModel, np.ndarray, np.ndarray],
    columns: list[np.ndarray],
    heads: list[LayerHead],
) -> None:
    expected = chain_answers(columns, heads)
    first = expected[0]
    gap = np.abs(first.probabilities - heads[0].calibration.thresholds)
    near, far = gap < 0.009, (gap > 0.011) & (gap < 0.02)
    assert near.any()
    assert far.any()

    def with_flipped(labels: np.ndarray) -> list[Answers]:
        return [Answers(first.probabilities, first.labels ^ labels, first.score), *expected[1:]]

    runtime = served(data, heads)
    check_served(runtime, (data[1],), with_flipped(near), heads)
    with pytest.raises(GraphError, match=r"exit 1 of the finished model"):
        check_served(runtime, (data[1],), with_flipped(far), heads)


def test_a_frozen_label_that_rounding_may_have_decided_is_not_compared_at_deeper_exits(
    data: tuple[LayeredModel, np.ndarray, np.ndarray],
    columns: list[np.ndarray],
    heads: list[LayerHead],
) -> None:
    for freeze in (False, True):
        scored = ruled(heads, "margin", freeze)
        first, *middle, last = chain_answers(columns, scored)
        gap = np.abs(first.probabilities - heads[0].calibration.thresholds)
        deep_gap = np.abs(last.probabilities - heads[-1].calibration.thresholds)
        near = (gap < 0.009) & (deep_gap > 0.2)  # sure at last, in doubt at first
        assert near.any()
        expected = [first, *middle, Answers(last.probabilities, last.labels ^ near, last.score)]
        if freeze:
            check_served(served(data, scored), (data[1],), expected, scored)
        else:
            with pytest.raises(GraphError, match=rf"exit {DEPTH} of the finished model"):
                check_served(served(data, scored), (data[1],), expected, scored)
