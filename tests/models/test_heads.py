from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from scipy.special import expit

from models.heads import HeadCalibration, attach_heads
from models.runtime import open_session

LABELS = 3


def logits_model() -> onnx.ModelProto:
    """A graph that gives its input back as `exit1_logits`."""
    value = ["batch", LABELS]
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["exit1_logits"])],
        "logits",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, value)],
        [helper.make_tensor_value_info("exit1_logits", TensorProto.FLOAT, value)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def run_head(calibration: HeadCalibration, logits: np.ndarray) -> list[np.ndarray]:
    session = open_session(attach_heads(logits_model(), [calibration]).SerializeToString())
    names = ["exit1_probabilities", "exit1_labels", "exit1_score"]
    return session.run(names, {"x": logits.astype(np.float32)})


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1))
def test_graph_computes_the_documented_formulas(seed: int) -> None:
    rng = np.random.default_rng(seed)
    calibration = HeadCalibration(
        rng.uniform(0.2, 3, LABELS), rng.normal(size=LABELS), rng.uniform(0.05, 0.95, LABELS)
    )
    logits = rng.normal(scale=4, size=(5, LABELS))
    probabilities, labels, score = run_head(calibration, logits)
    expected = expit(calibration.scale * logits + calibration.offset)
    tau = calibration.thresholds
    margin = np.where(expected >= tau, (expected - tau) / (1 - tau), (tau - expected) / tau)
    np.testing.assert_allclose(probabilities, expected, atol=1e-5)
    np.testing.assert_array_equal(labels, probabilities >= tau.astype(np.float32))
    np.testing.assert_allclose(score, margin.min(axis=1), atol=1e-4)


@pytest.mark.parametrize("logit", [-100.0, 100.0])
def test_certain_rows_score_one_and_never_more(logit: float) -> None:
    for threshold in np.linspace(0.05, 0.95, 100):
        calibration = HeadCalibration(np.ones(LABELS), np.zeros(LABELS), np.full(LABELS, threshold))
        _, _, score = run_head(calibration, np.full((2, LABELS), logit))
        np.testing.assert_allclose(score, 1)
        assert score.max() <= 1


def test_a_row_on_the_edge_of_another_label_set_scores_zero() -> None:
    calibration = HeadCalibration(np.ones(LABELS), np.zeros(LABELS), np.full(LABELS, 0.5))
    _, labels, score = run_head(calibration, np.array([[9.0, 0.0, -9.0]]))
    assert labels.tolist() == [[True, True, False]]
    assert score.tolist() == [0.0]


def test_the_given_model_is_left_alone() -> None:
    model = logits_model()
    before = model.SerializeToString(deterministic=True)
    attach_heads(model, [HeadCalibration(np.ones(LABELS), np.zeros(LABELS), np.full(LABELS, 0.5))])
    assert model.SerializeToString(deterministic=True) == before
