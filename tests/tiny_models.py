"""Small models and data that fit each other, made on the spot."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from models.runtime import open_session


def residual_mlp(
    blocks: int,
    width: int = 8,
    labels: int = 3,
    scopes: bool = True,
    seed: int = 0,
    inner: int | None = None,
) -> onnx.ModelProto:
    """x -> (x + relu(x W) V) per block -> logits; every block has two products.

    A large `inner` width makes blocks slow, so that skipping them pays.
    """
    inner = inner or width
    rng = np.random.default_rng(seed)
    nodes, weights = [], []
    carry = "x"
    for k in range(blocks):
        for name, shape in (("up", (width, inner)), ("down", (inner, width))):
            value = rng.normal(size=shape).astype(np.float32) / 4 * (width / shape[0]) ** 0.5
            weights.append(numpy_helper.from_array(value, f"{name}{k}"))
        nodes += [
            helper.make_node("MatMul", [carry, f"up{k}"], [f"wide{k}"]),
            helper.make_node("Relu", [f"wide{k}"], [f"active{k}"]),
            helper.make_node("MatMul", [f"active{k}", f"down{k}"], [f"change{k}"]),
            helper.make_node("Add", [carry, f"change{k}"], [f"carry{k}"]),
        ]
        if scopes:
            for node in nodes[-4:]:
                node.name = f"/net/blocks.{k}/{node.output[0]}"
        carry = f"carry{k}"
    classifier = rng.normal(size=(width, labels)).astype(np.float32)
    weights.append(numpy_helper.from_array(classifier, "classifier"))
    nodes.append(helper.make_node("MatMul", [carry, "classifier"], ["logits"], "/net/head/MatMul"))
    graph = helper.make_graph(
        nodes,
        "mlp",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", width])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", labels])],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def labelled_rows(
    model: onnx.ModelProto, rows: int, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Rows x (n, width) and label sets (n, labels) that the model gets mostly right."""
    rng = np.random.default_rng(seed)
    width = model.graph.input[0].type.tensor_type.shape.dim[1].dim_value
    x = rng.normal(size=(rows, width)).astype(np.float32)
    logits = open_session(model.SerializeToString()).run(None, {"x": x})[0]
    return x, logits + rng.logistic(size=logits.shape) / 8 > 0
