from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from models.errors import GraphError
from models.graph_writer import GraphWriter
from models.heads import FLOAT16_MAX, HeadLayers, add_logits, head_model, round_feature
from models.pooling import add_pooling, pooled_width
from models.runtime import open_session

OPSETS = (11, 12, 13, 17, 18, 20)


def pooled(
    value: np.ndarray, mask: np.ndarray | None = None, opset: int = 18, rounded: bool = False
) -> np.ndarray:
    element = helper.np_dtype_to_tensor_dtype(value.dtype)
    inputs = [helper.make_tensor_value_info("x", element, [None] * value.ndim)]
    feeds = {"x": value}
    if mask is not None:
        inputs.append(helper.make_tensor_value_info("mask", TensorProto.INT64, [None, None]))
        feeds["mask"] = mask
    graph = helper.make_graph([], "pooling", inputs, [])
    writer = GraphWriter(graph, "layer1_", opset)
    name = add_pooling(writer, "x", value.ndim, "mask" if mask is not None else None)
    if rounded:
        name = round_feature(writer, name)
    graph.output.append(onnx.ValueInfoProto(name=name))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=7)
    return open_session(model.SerializeToString()).run(None, feeds)[0]


@pytest.mark.parametrize("opset", OPSETS)
def test_maps_become_their_mean_and_maximum(opset: int) -> None:
    x = np.random.default_rng(0).normal(size=(3, 5, 4, 7)).astype(np.float32)
    found = pooled(x, opset=opset)
    expected = np.hstack([x.mean((2, 3)), x.max((2, 3))])
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert found.shape[1] == pooled_width(x.shape)


@pytest.mark.parametrize("opset", OPSETS)
def test_sequences_become_the_mean_of_what_counts_and_the_first_token(opset: int) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3, 6, 4)).astype(np.float32)
    mask = np.array([[1, 1, 1, 0, 0, 0], [1] * 6, [1, 0, 0, 0, 0, 0]])
    found = pooled(x, mask, opset)
    means = [x[row, mask[row] > 0].mean(0) for row in range(3)]
    np.testing.assert_allclose(found, np.hstack([means, x[:, 0]]), atol=1e-5)
    assert found.shape[1] == pooled_width(x.shape)


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_padding_does_not_change_what_is_pooled(length: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(2, 8, 3)).astype(np.float32)
    mask = np.zeros((2, 8), np.int64)
    mask[:, :length] = 1
    short = pooled(x[:, :length], mask[:, :length])
    np.testing.assert_allclose(pooled(x, mask), short, atol=1e-5)


def test_a_row_without_any_token_is_finite() -> None:
    x = np.ones((1, 4, 2), np.float32)
    assert np.isfinite(pooled(x, np.zeros((1, 4), np.int64))).all()


def test_vectors_and_half_precision_are_taken_as_they_are() -> None:
    x = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float16)
    found = pooled(x)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, x.astype(np.float32))


def test_another_rank_is_refused() -> None:
    with pytest.raises(GraphError, match="rank 5"):
        pooled(np.zeros((1, 1, 1, 1, 1), np.float32))


def test_features_are_rounded_as_numpy_rounds_and_saturate() -> None:
    x = np.array([[1 / 3, 1e6, -1e6, 70000, 1e-9]], np.float32)
    found = pooled(x, rounded=True)
    assert found.dtype == np.float16
    expected = np.clip(x, -FLOAT16_MAX, FLOAT16_MAX).astype(np.float16)
    np.testing.assert_array_equal(found, expected)


def test_a_served_head_reads_the_rounded_feature() -> None:
    """Cast to float16 and back must not be optimised away: the cache holds rounded features."""
    layers = HeadLayers((np.eye(5, dtype=np.float32),), (np.zeros(5, np.float32),))
    graph = helper.make_graph(
        [], "head", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 5])], []
    )
    writer = GraphWriter(graph, "exit1_", 18)
    logits = add_logits(writer, round_feature(writer, "x"), layers)
    graph.output.append(helper.make_tensor_value_info(logits, TensorProto.FLOAT, ["batch", 5]))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    x = np.random.default_rng(0).normal(size=(4, 5)).astype(np.float32)
    served = open_session(model.SerializeToString()).run(None, {"x": x})[0]
    cached = open_session(head_model(5, layers).SerializeToString()).run(
        None, {"feature": x.astype(np.float16)}
    )[0]
    np.testing.assert_array_equal(served, cached)
    assert not np.array_equal(served, x)


def test_a_head_of_two_layers_computes_its_formula() -> None:
    rng = np.random.default_rng(0)
    weights = tuple(rng.normal(size=s).astype(np.float32) for s in ((6, 4), (4, 3)))
    biases = tuple(rng.normal(size=s).astype(np.float32) for s in (4, 3))
    feature = rng.normal(size=(5, 6)).astype(np.float16)
    session = open_session(head_model(6, HeadLayers(weights, biases)).SerializeToString())
    hidden = np.maximum(feature.astype(np.float32) @ weights[0] + biases[0], 0)
    np.testing.assert_allclose(
        session.run(None, {"feature": feature})[0], hidden @ weights[1] + biases[1], atol=1e-4
    )
