from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from onnx.parser import parse_model

from calibration.row_check import check_rows
from models.cuts import Cut, find_cuts
from models.errors import GraphError

RNG = np.random.default_rng(0)
ROWS = (RNG.normal(size=(6, 4)).astype(np.float32),)


def two_layers(between: str) -> onnx.ModelProto:
    """x W1, then `between` from `first` to `middle`, then W2."""
    model = parse_model(f"""
    <ir_version: 8, opset_import: ["" : 17]>
    layers (float[batch, 4] x) => (float[batch, 4] y)
    {{
        first = MatMul(x, w1)
        {between}
        y = MatMul(middle, w2)
    }}
    """)
    for name in ("w1", "w2"):
        value = RNG.normal(size=(4, 4)).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(value, name))
    return model


def cut(*carry: str) -> Cut:
    return Cut("cut", carry[0], carry)


def test_independent_rows_pass_and_their_tensors_are_given() -> None:
    model = two_layers("middle = Relu(first)")
    kept, samples = check_rows(model, [cut("middle")], "y", ROWS)
    assert kept == [cut("middle")]
    assert samples["middle"].shape == samples["y"].shape == (5, 4)
    assert "middle" in {value.name for value in model.graph.value_info}


@pytest.mark.parametrize(
    ("between", "culprit"),
    [
        ("middle = Softmax<axis = 0>(first)", "middle"),
        ("mean = ReduceMean<axes = [0]>(first) middle = Sub(first, mean)", "middle"),
        ("other = Relu(first) middle = CumSum(other, zero)", "middle"),
        (
            "q, s, z = DynamicQuantizeLinear(first) middle = DequantizeLinear(q, s, z)",
            "q",
        ),
    ],
    ids=["softmax over rows", "mean over rows", "running sum", "quantised per tensor"],
)
def test_rows_that_see_each_other_are_refused_with_the_first_tensor(
    between: str, culprit: str
) -> None:
    model = two_layers(between)
    model.graph.initializer.append(numpy_helper.from_array(np.array(0), "zero"))
    with pytest.raises(GraphError, match=rf"mixes rows.*tensor '{culprit}'"):
        check_rows(model, [cut("middle")], "y", ROWS)


def test_a_cut_whose_rows_are_not_in_dimension_0_is_left_out() -> None:
    model = two_layers("turned = Transpose(first) middle = Transpose(turned)")
    kept, _ = check_rows(model, [cut("turned"), cut("middle")], "y", ROWS)
    assert kept == [cut("middle")]


def test_an_output_without_rows_is_refused() -> None:
    model = two_layers("middle = Transpose(first)")
    del model.graph.node[-1]
    model.graph.output[0].name = "middle"
    with pytest.raises(GraphError, match="rows in dimension 0"):
        check_rows(model, [], "middle", ROWS)


def test_every_candidate_of_a_plain_network_passes() -> None:
    model = two_layers("middle = Relu(first)")
    cuts = find_cuts(model, "y")
    assert check_rows(model, cuts, "y", ROWS)[0] == cuts
