from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.parser import parse_model

from models.cuts import Cut, find_cuts, value_tensors
from models.errors import GraphError
from models.graph import extract_graph, graph_inputs, rename_tensor, split_graph
from models.runtime import open_session
from tests.tiny_models import residual_mlp

RNG = np.random.default_rng(0)


def run(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    session = open_session(model.SerializeToString())
    names = [value.name for value in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))


def chained(
    model: onnx.ModelProto, cuts: Sequence[Cut], output: str, feeds: dict[str, np.ndarray]
) -> np.ndarray:
    stages = split_graph(model, [cut.carry for cut in cuts], [*([] for _ in cuts), [output]])
    made = dict(feeds)
    for stage in stages:
        inputs = {name: made[name] for name in graph_inputs(stage)}
        made = {**{k: v for k, v in inputs.items()}, **run(stage, inputs)}
    return made[output]


def test_cuts_stand_at_the_ends_of_blocks_under_their_scope() -> None:
    cuts = find_cuts(residual_mlp(4), "logits")
    assert [cut.name for cut in cuts] == [f"net.blocks.{k}" for k in range(4)]
    assert [cut.carry for cut in cuts] == [(f"carry{k}",) for k in range(4)]


def test_cuts_without_scopes_are_the_places_where_one_tensor_crosses() -> None:
    cuts = find_cuts(residual_mlp(4, scopes=False), "logits")
    assert [cut.carry for cut in cuts] == [(f"carry{k}",) for k in range(4)]
    assert [cut.name for cut in cuts] == [f"carry{k}" for k in range(4)]


@pytest.mark.parametrize("blocks", [2, 5])
def test_split_then_chained_equals_the_whole(blocks: int) -> None:
    model = residual_mlp(blocks)
    x = RNG.normal(size=(6, 8)).astype(np.float32)
    whole = run(model, {"x": x})["logits"]
    np.testing.assert_allclose(
        chained(model, find_cuts(model, "logits"), "logits", {"x": x}), whole, atol=1e-5
    )


def test_many_candidates_are_thinned_out_and_the_deepest_stays() -> None:
    cuts = find_cuts(residual_mlp(12), "logits", max_cuts=4)
    assert [cut.carry[0] for cut in cuts] == ["carry2", "carry5", "carry8", "carry11"]


def test_nothing_behind_the_output_counts() -> None:
    cuts = find_cuts(residual_mlp(4), "carry2")
    assert [cut.carry for cut in cuts] == [("carry0",), ("carry1",)]


MASKED = """
<ir_version: 8, opset_import: ["" : 17]>
masked (int64[batch, tokens] ids, int64[batch, tokens] mask) => (float[batch, tokens, 4] hidden)
<float[20, 4] table, float[4, 4] one, float[4, 4] two, float[4, 4] three>
{
    embedded = Gather(table, ids)
    as_float = Cast<to = 1>(mask)
    last = Constant<value_ints = [2]>()
    weights = Unsqueeze(as_float, last)
    first = MatMul(embedded, one)
    kept1 = Mul(first, weights)
    second = MatMul(kept1, two)
    kept2 = Mul(second, weights)
    size = Shape(ids)
    third = MatMul(kept2, three)
    hidden = Mul(third, weights)
}
"""


def masked_model() -> onnx.ModelProto:
    model = parse_model(MASKED)
    del model.graph.input[2:]
    for name, shape in (("table", (20, 4)), ("one", (4, 4)), ("two", (4, 4)), ("three", (4, 4))):
        value = RNG.normal(size=shape).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(value, name))
    return model


def test_a_mask_that_deeper_stages_need_travels_as_it_came() -> None:
    model = masked_model()
    cuts = find_cuts(model, "hidden")
    assert [cut.carry for cut in cuts] == [("kept1", "mask"), ("kept2", "mask")]
    feeds = {
        "ids": RNG.integers(0, 20, (3, 5)),
        "mask": RNG.integers(0, 2, (3, 5)),
    }
    whole = run(model, feeds)["hidden"]
    np.testing.assert_allclose(chained(model, cuts, "hidden", feeds), whole, atol=1e-5)


def test_a_mask_that_heads_read_is_always_carried() -> None:
    model = residual_mlp(2)
    model.graph.input.append(
        helper.make_tensor_value_info("attention_mask", TensorProto.INT64, ["batch", 4])
    )
    cuts = find_cuts(model, "logits", mask="attention_mask")
    assert [cut.carry for cut in cuts] == [
        ("carry0", "attention_mask"),
        ("carry1", "attention_mask"),
    ]


def test_shapes_and_what_follows_from_them_are_no_values() -> None:
    assert "size" not in value_tensors(masked_model(), "hidden")
    assert "weights" in value_tensors(masked_model(), "hidden")


def test_a_model_of_one_layer_has_no_cut() -> None:
    with pytest.raises(GraphError, match="fewer than two layers"):
        find_cuts(residual_mlp(0), "logits")


def test_too_wide_a_model_is_refused_with_the_width_found() -> None:
    nodes, weights = [], []
    for k in range(4):
        for depth in range(2):
            value = numpy_helper.from_array(np.eye(8, dtype=np.float32), f"w{k}{depth}")
            weights.append(value)
    nodes += [helper.make_node("MatMul", ["x", f"w{k}0"], [f"a{k}"]) for k in range(4)]
    nodes += [helper.make_node("MatMul", [f"a{k}", f"w{k}1"], [f"b{k}"]) for k in range(4)]
    nodes.append(helper.make_node("Sum", [f"b{k}" for k in range(4)], ["logits"]))
    graph = helper.make_graph(
        nodes,
        "wide",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 8])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    with pytest.raises(GraphError, match=r"at least 2 tensors cross.*--max-carry"):
        find_cuts(model, "logits", max_carry=1)
    assert find_cuts(model, "logits", max_carry=4)


CONTROL = """
<ir_version: 8, opset_import: ["" : 17]>
control (float[batch, 4] x, bool flag) => (float[batch, 4] y)
{
    y = If (flag) <
        then_branch = one () => (a) { a = MatMul(x, w) },
        else_branch = two () => (b) { b = MatMul(x, w) }
    >
}
"""


def test_inner_graphs_keep_what_they_read_from_outside() -> None:
    model = parse_model(CONTROL)
    model.graph.initializer.append(numpy_helper.from_array(np.eye(4, dtype=np.float32), "w"))
    part = extract_graph(model, ["x", "flag"], ["y"])
    assert [tensor.name for tensor in part.graph.initializer] == ["w"]
    with pytest.raises(GraphError, match="'x'"):
        extract_graph(model, ["flag"], ["y"])


def test_a_model_all_inside_control_flow_has_no_cut() -> None:
    model = parse_model(CONTROL)
    model.graph.initializer.append(numpy_helper.from_array(np.eye(4, dtype=np.float32), "w"))
    with pytest.raises(GraphError, match="outside control flow"):
        find_cuts(model, "y")


def test_a_renamed_tensor_is_renamed_everywhere() -> None:
    model = residual_mlp(2)
    x = RNG.normal(size=(3, 8)).astype(np.float32)
    before = run(model, {"x": x})["logits"]
    rename_tensor(model, "carry0", "other")
    rename_tensor(model, "logits", "answer")
    onnx.checker.check_model(model)
    np.testing.assert_array_equal(run(model, {"x": x})["answer"], before)
