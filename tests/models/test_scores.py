from __future__ import annotations

from dataclasses import replace
from typing import get_args

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from models.gate import Gate, evidence_width
from models.heads import HeadCalibration, attach_heads
from models.measurements import ScoreKind
from models.runtime import Answers, StageRuntime, open_session
from models.scores import ScoreRule, score_state

DEPTH = 4
KINDS = get_args(ScoreKind)
FLOAT32 = TensorProto.FLOAT

every_rule = pytest.mark.parametrize(
    ("kind", "freeze"), [(kind, freeze) for kind in KINDS for freeze in (False, True)]
)
every_opset = pytest.mark.parametrize("opset", [11, 13, 18])
seeds = st.integers(0, 2**32 - 1)


def logits_model(labels: int, depth: int = DEPTH, opset: int = 18) -> onnx.ModelProto:
    """A graph that gives its input z{k} back as `exit{k}_logits`."""
    numbers = range(1, depth + 1)
    shape = ["batch", labels]
    graph = helper.make_graph(
        [helper.make_node("Identity", [f"z{k}"], [f"exit{k}_logits"]) for k in numbers],
        "logits",
        [helper.make_tensor_value_info(f"z{k}", FLOAT32, shape) for k in numbers],
        [helper.make_tensor_value_info(f"exit{k}_logits", FLOAT32, shape) for k in numbers],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def random_heads(
    rng: np.random.Generator, labels: int, kind: ScoreKind, freeze: bool, depth: int = DEPTH
) -> list[HeadCalibration]:
    heads = []
    for number in range(1, depth + 1):
        width = evidence_width(number, labels)
        gate = Gate(
            rng.normal(size=width),
            float(rng.normal()),
            rng.normal(size=width),
            rng.uniform(0.1, 2, width),
        )
        rule = ScoreRule(kind, rng.uniform(0.01, 0.3, labels), gate, freeze)
        scale, offset = rng.uniform(0.2, 3, labels), rng.normal(size=labels)
        heads.append(HeadCalibration(scale, offset, rng.uniform(0.05, 0.95, labels), rule))
    return heads


def random_logits(rng: np.random.Generator, rows: int, labels: int) -> list[np.ndarray]:
    """Exits that mostly agree, so that some labels freeze and some change."""
    first = rng.normal(scale=3, size=(rows, labels))
    return [
        (first + rng.normal(scale=2, size=(rows, labels))).astype(np.float32) for _ in range(DEPTH)
    ]


def run_graph(
    heads: list[HeadCalibration], logits: list[np.ndarray], opset: int = 18
) -> dict[str, np.ndarray]:
    """Every output and, where labels freeze, which are frozen."""
    model = attach_heads(logits_model(logits[0].shape[1], len(heads), opset), heads)
    if heads[0].score.freeze:
        frozen = [f"exit{k}_frozen" for k in range(2, len(heads) + 1)]
        model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in frozen)
    session = open_session(model.SerializeToString())
    names = [value.name for value in session.get_outputs()]
    feeds = {f"z{k}": z for k, z in enumerate(logits, start=1)}
    return dict(zip(names, session.run(names, feeds), strict=True))


def expected_frozen(
    decided: list[np.ndarray], clear: list[np.ndarray]
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Label sets and frozen labels of every exit, one label of one row after the other."""
    labels = [decision.copy() for decision in decided]
    frozen = [np.zeros_like(decision) for decision in decided]
    for row, label in np.ndindex(decided[0].shape):
        since = None
        for k in range(1, len(decided)):
            if since is not None:
                labels[k][row, label] = decided[since][row, label]
            elif (
                clear[k - 1][row, label]
                and clear[k][row, label]
                and decided[k - 1][row, label] == decided[k][row, label]
            ):
                since = k
            frozen[k][row, label] = since is not None
    return labels, frozen


def expected_evidence(
    margin: np.ndarray,
    labels: np.ndarray,
    log_probability: np.ndarray,
    change: np.ndarray | None,
    labels_before: np.ndarray | None,
) -> np.ndarray:
    parts = [
        np.sort(margin, axis=1)[:, :5],
        np.log1p(labels.sum(axis=1))[:, None],
        log_probability.mean(axis=1)[:, None],
    ]
    if change is not None:
        parts += [change.max(axis=1)[:, None], (labels == labels_before).all(axis=1)[:, None]]
    return np.concatenate(parts, axis=1)


def expected_answers(
    heads: list[HeadCalibration], probabilities: list[np.ndarray]
) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Label set, frozen labels and score of every exit, by the documented formulas."""
    taus = [head.thresholds.astype(np.float32) for head in heads]
    distances = [np.abs(p - tau) for p, tau in zip(probabilities, taus, strict=True)]
    labels = [p >= tau for p, tau in zip(probabilities, taus, strict=True)]
    frozen = [np.zeros_like(decision) for decision in labels]
    if heads[0].score.freeze:
        widths = [head.score.widths.astype(np.float32) for head in heads]
        clear = [d >= w for d, w in zip(distances, widths, strict=True)]
        labels, frozen = expected_frozen(labels, clear)
    answers = []
    for k, head in enumerate(heads):
        p, rule = probabilities[k].astype(float), head.score
        tau, held = head.thresholds, frozen[k]
        distance = np.abs(p - tau)
        margin = np.where(held, 1, distance / np.where(p >= tau, 1 - tau, tau))
        clipped = p.clip(1e-6, 1 - 1e-6)
        log = np.where(held, 0, np.log(np.where(labels[k], clipped, 1 - clipped)))
        change = np.where(held, 0, np.abs(p - probabilities[k - 1])) if k else None
        score = margin.min(axis=1)
        if rule.kind == "width":
            score = np.where(held, 1, distance / (distance + rule.widths)).min(axis=1)
        elif rule.kind == "log-probability":
            score = np.exp(log.mean(axis=1))
        elif rule.kind == "agreement" and change is not None:
            score = 1 - change.max(axis=1)
        elif rule.kind == "gate":
            evidence = expected_evidence(margin, labels[k], log, change, labels[k - 1])
            standardised = (evidence - rule.gate.mean) / rule.gate.scale
            score = 1 / (1 + np.exp(-(standardised @ rule.gate.weights + rule.gate.bias)))
            score = np.where(held.all(axis=1), 1, score)
        answers.append((labels[k], held, score))
    return answers


@every_opset
@every_rule
@settings(deadline=None, max_examples=10)
@given(labels=st.sampled_from([1, 7]), seed=seeds)
def test_graph_computes_the_documented_formulas(
    kind: ScoreKind, freeze: bool, opset: int, labels: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    heads = random_heads(rng, labels, kind, freeze)
    found = run_graph(heads, random_logits(rng, 9, labels), opset)
    probabilities = [found[f"exit{k}_probabilities"] for k in range(1, DEPTH + 1)]
    for k, (label_set, frozen, score) in enumerate(expected_answers(heads, probabilities), 1):
        np.testing.assert_array_equal(found[f"exit{k}_labels"], label_set)
        np.testing.assert_allclose(found[f"exit{k}_score"], score, atol=1e-4)
        assert found[f"exit{k}_score"].dtype == np.float32
        if freeze and k > 1:
            np.testing.assert_array_equal(found[f"exit{k}_frozen"], frozen)


@every_rule
@settings(deadline=None, max_examples=10)
@given(labels=st.sampled_from([1, 7]), seed=seeds)
def test_scores_are_finite_and_never_leave_0_to_1(
    kind: ScoreKind, freeze: bool, labels: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    heads = random_heads(rng, labels, kind, freeze)
    logits = [
        rng.choice([-100, -20, -1, 0, 1, 20, 100], (16, labels)).astype(np.float32)
        for _ in range(DEPTH)
    ]
    found = run_graph(heads, logits)
    scores = np.stack([found[f"exit{k}_score"] for k in range(1, DEPTH + 1)])
    assert np.isfinite(scores).all()
    assert scores.min() >= 0
    assert scores.max() <= 1


def staged(heads: list[HeadCalibration], opset: int = 18) -> tuple[StageRuntime, onnx.ModelProto]:
    model = attach_heads(logits_model(len(heads[0].scale), len(heads), opset), heads)
    carries = [
        (*(f"z{j}" for j in range(k + 1, len(heads) + 1)), *score_state(k, heads[k].score))
        for k in range(1, len(heads))
    ]
    return StageRuntime(model.SerializeToString(), carries), model


@every_opset
@every_rule
def test_staged_equals_monolith_exactly(kind: ScoreKind, freeze: bool, opset: int) -> None:
    rng = np.random.default_rng(1)
    heads = random_heads(rng, 7, kind, freeze)
    logits = random_logits(rng, 50, 7)
    runtime, model = staged(heads, opset)
    onnx.checker.check_model(model, full_check=True)
    whole = run_graph(heads, logits, opset)
    for k, answers in enumerate(runtime.all_exits(tuple(logits)), start=1):
        np.testing.assert_array_equal(answers.probabilities, whole[f"exit{k}_probabilities"])
        np.testing.assert_array_equal(answers.labels, whole[f"exit{k}_labels"])
        np.testing.assert_array_equal(answers.score, whole[f"exit{k}_score"])


@every_rule
def test_answers_do_not_depend_on_the_batch(kind: ScoreKind, freeze: bool) -> None:
    rng = np.random.default_rng(2)
    runtime, _ = staged(random_heads(rng, 7, kind, freeze))
    logits = tuple(random_logits(rng, 50, 7))
    together, alone = runtime.all_exits(logits, batch=50), runtime.all_exits(logits, batch=1)
    for one, other in zip(together, alone, strict=True):
        np.testing.assert_array_equal(one.labels, other.labels)
        np.testing.assert_allclose(one.score, other.score, atol=1e-6)


@every_rule
def test_what_looks_back_is_the_only_thing_that_crosses_a_cut(
    kind: ScoreKind, freeze: bool
) -> None:
    rule = random_heads(np.random.default_rng(0), 3, kind, freeze)[0].score
    assert bool(score_state(1, rule)) == rule.looks_back
    assert ("exit2_frozen" in score_state(2, rule)) == freeze
    assert "exit1_frozen" not in score_state(1, rule)


@pytest.mark.parametrize("kind", KINDS)
def test_what_crosses_a_cut_has_a_declared_type(kind: ScoreKind) -> None:
    heads = random_heads(np.random.default_rng(0), 7, kind, freeze=True)
    graph = attach_heads(logits_model(7), heads).graph
    declared = {value.name: value.type.tensor_type for value in [*graph.value_info, *graph.output]}
    for number in range(1, DEPTH):
        for name in score_state(number, heads[number].score):
            assert [dim.dim_param or dim.dim_value for dim in declared[name].shape.dim] == [
                "batch",
                7,
            ]
            is_bool = not name.endswith("probabilities")
            assert declared[name].elem_type == (TensorProto.BOOL if is_bool else FLOAT32)


@settings(deadline=None, max_examples=20)
@given(seed=seeds)
def test_a_frozen_label_never_changes_again(seed: int) -> None:
    rng = np.random.default_rng(seed)
    found = run_graph(random_heads(rng, 7, "margin", freeze=True), random_logits(rng, 40, 7))
    for k in range(2, DEPTH):
        frozen = found[f"exit{k}_frozen"]
        for deeper in range(k + 1, DEPTH + 1):
            assert found[f"exit{deeper}_frozen"][frozen].all()
            np.testing.assert_array_equal(
                found[f"exit{deeper}_labels"][frozen], found[f"exit{k}_labels"][frozen]
            )


def test_a_frozen_label_keeps_its_decision_against_a_later_exit_and_its_probability_moves() -> None:
    rule = ScoreRule(widths=np.array([0.2]), freeze=True)
    head = HeadCalibration(np.ones(1), np.zeros(1), np.full(1, 0.5), rule)
    logits = [np.full((1, 1), z, np.float32) for z in (3, 3, -3)]
    frozen = run_graph([head] * 3, logits)
    free = run_graph([replace(head, score=ScoreRule())] * 3, logits)
    assert frozen["exit3_labels"].item() is True
    assert free["exit3_labels"].item() is False
    assert frozen["exit3_probabilities"] == free["exit3_probabilities"] < 0.1


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_whose_labels_are_all_frozen_scores_one(kind: ScoreKind) -> None:
    rng = np.random.default_rng(3)
    heads = [
        replace(head, scale=np.ones(4), offset=np.zeros(4), thresholds=np.full(4, 0.5))
        for head in random_heads(rng, 4, kind, freeze=True)
    ]
    sure, unsure = np.array([2, -2, 2, -2]), np.array([2, -2, 2, 0.1])
    logits = [np.stack([sure, unsure]).astype(np.float32)] * 2
    logits += [np.zeros((2, 4), np.float32)] * 2  # deeper exits know nothing any more
    found = run_graph(heads, logits)
    assert found["exit1_score"][0] < 1
    for k in (2, 3, 4):
        assert found[f"exit{k}_score"][0] == 1
        assert found[f"exit{k}_score"][1] < 1 or kind == "agreement"


def test_scores_differ_by_kind() -> None:
    rng = np.random.default_rng(4)
    logits = random_logits(rng, 20, 7)
    second = [
        run_graph(random_heads(np.random.default_rng(4), 7, kind, False), logits)["exit2_score"]
        for kind in KINDS
    ]
    assert len({tuple(score.round(3)) for score in second}) == len(KINDS)


def test_a_row_far_from_every_threshold_does_not_underflow_with_many_labels() -> None:
    labels = 983
    head = HeadCalibration(
        np.ones(labels), np.zeros(labels), np.full(labels, 0.5), ScoreRule("log-probability")
    )
    found = run_graph([head], [np.full((1, labels), 0.8, np.float32)])
    np.testing.assert_allclose(found["exit1_score"], 1 / (1 + np.exp(-0.8)), rtol=1e-5)


def test_a_rule_without_what_it_needs_is_refused() -> None:
    with pytest.raises(ValueError, match="needs widths"):
        ScoreRule("width")
    with pytest.raises(ValueError, match="needs widths"):
        ScoreRule(freeze=True)
    with pytest.raises(ValueError, match="must be positive"):
        ScoreRule("width", np.array([0.1, 0.0]))
    with pytest.raises(ValueError, match="needs a gate"):
        ScoreRule("gate")


def test_a_gate_of_another_exit_is_refused() -> None:
    first, second = random_heads(np.random.default_rng(5), 3, "gate", freeze=False, depth=2)
    with pytest.raises(ValueError, match="gate of exit 1 has 7 weights, expected 5"):
        attach_heads(logits_model(3, 2), [second, first])


def test_freezing_from_the_second_exit_only_is_refused() -> None:
    head = random_heads(np.random.default_rng(6), 3, "margin", freeze=True)[0]
    with pytest.raises(ValueError, match="freeze at exit 2 but not at exit 1"):
        attach_heads(logits_model(3, 2), [replace(head, score=ScoreRule()), head])


def test_a_deeper_exit_may_stop_freezing_labels() -> None:
    heads = random_heads(np.random.default_rng(7), 3, "margin", freeze=True)
    heads[-1] = replace(heads[-1], score=ScoreRule())
    assert score_state(3, heads[-1].score) == ()
    runtime, _ = staged(heads)
    answers: list[Answers] = runtime.all_exits(tuple(random_logits(np.random.default_rng(7), 5, 3)))
    np.testing.assert_array_equal(
        answers[-1].labels, answers[-1].probabilities >= heads[-1].thresholds.astype(np.float32)
    )
