from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from calibration.assembly import assemble, check_served
from calibration.layer_answers import LayerHead, layer_answers
from calibration.layers import layers_of_source
from calibration.source import Source
from models.errors import GraphError
from models.graph import graph_inputs, split_stages
from models.heads import HeadCalibration
from models.preprocessing import TensorSpec
from models.runtime import StageRuntime
from tests.tiny_models import labelled_rows, residual_mlp

LABELS = 3
INPUTS = (TensorSpec(name="x", row_shape=(64,)),)


def source(model: onnx.ModelProto, output: str = "logits", has_head: bool = True) -> Source:
    return Source(model, INPUTS, output, has_head)


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    return residual_mlp(3, width=64)


@pytest.fixture(scope="module")
def rows(model: onnx.ModelProto) -> np.ndarray:
    return labelled_rows(model, 16)[0]


def test_layers_are_named_and_the_last_is_full_depth(
    model: onnx.ModelProto, rows: np.ndarray
) -> None:
    layered = layers_of_source(source(model), (rows,), LABELS)
    assert layered.layers[-1].name == "full depth"
    assert layered.layers[-1].carry == ()
    assert layered.layers[-1].has_logits
    assert not layered.layers[0].has_logits
    assert len(layered.milliseconds) == len(layered.layers)
    assert all(time > 0 for time in layered.milliseconds)


def test_without_a_head_the_last_layer_is_a_feature_like_the_others(
    model: onnx.ModelProto, rows: np.ndarray
) -> None:
    layered = layers_of_source(source(model, "carry2", has_head=False), (rows,), LABELS)
    assert not any(layer.has_logits for layer in layered.layers)
    assert layered.layers[-1].column.width == 64


def test_candidates_with_nothing_between_them_are_merged() -> None:
    """A head of two tiny products behind the last block is no layer of its own."""
    width = 1024
    model = residual_mlp(3, width)
    rng = np.random.default_rng(0)
    for name, shape in (("squeeze", (width, 2)), ("widen", (2, LABELS))):
        value = rng.normal(size=shape).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(value, name))
    last = model.graph.node[-1]
    last.input[1], last.output[0] = "squeeze", "squeezed"
    model.graph.node.append(
        onnx.helper.make_node("MatMul", ["squeezed", "widen"], ["logits"], "/net/out/MatMul")
    )
    rows, _ = labelled_rows(model, 16)
    names = [layer.name for layer in layers_of_source(source(model), (rows,), LABELS).layers]
    assert "net.head" not in names
    assert names[-1] == "full depth"


def test_logits_of_another_width_are_refused(model: onnx.ModelProto, rows: np.ndarray) -> None:
    with pytest.raises(GraphError, match=r"\(3,\) numbers per row, expected \(5,\).*--no-head"):
        layers_of_source(source(model), (rows,), labels=5)


@pytest.fixture(scope="module")
def assembled(
    model: onnx.ModelProto, rows: np.ndarray
) -> tuple[onnx.ModelProto, StageRuntime, list]:
    layered = layers_of_source(source(model), (rows,), LABELS)
    calibration = HeadCalibration(np.ones(LABELS), np.zeros(LABELS), np.full(LABELS, 0.5))
    head = LayerHead(None, calibration)
    layers = [layered.layers[-1]]
    graph = assemble(layered, layers, [head])
    runtime = StageRuntime(graph.SerializeToString(), [])
    logits = runtime.all_exits((rows,))
    return graph, runtime, [logits[0], head]


def test_the_finished_graph_keeps_nothing_that_no_exit_needs(assembled: tuple) -> None:
    graph, _, _ = assembled
    assert graph_inputs(graph) == ["x"]
    assert [value.name for value in graph.graph.output] == [
        "exit1_logits",
        "exit1_probabilities",
        "exit1_labels",
        "exit1_score",
    ]
    assert not any("feature" in name for node in graph.graph.node for name in node.output)
    [stage] = split_stages(graph, [])
    onnx.checker.check_model(stage)


def test_served_answers_are_compared_with_the_cached_ones(
    assembled: tuple, rows: np.ndarray, model: onnx.ModelProto
) -> None:
    _, runtime, (answers, head) = assembled
    check_served(runtime, (rows,), [answers])
    from models.runtime import open_session

    logits = open_session(model.SerializeToString()).run(None, {"x": rows})[0]
    check_served(runtime, (rows,), [layer_answers(logits, head)])
    with pytest.raises(GraphError, match=r"exit 1 .* answers unlike the cached features"):
        check_served(runtime, (rows,), [layer_answers(-logits, head)])
