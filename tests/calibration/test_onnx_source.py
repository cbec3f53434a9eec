from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import NodeProto, TensorProto, helper, numpy_helper

from calibration.onnx_source import open_onnx
from calibration.source import Source
from models.errors import CalibrationError, GraphError
from models.preprocessing import TensorSpec
from models.runtime import open_session

LABELS, WIDTH, COLUMNS = 4, 8, 6
ROWS = np.random.default_rng(0).normal(size=(5, COLUMNS)).astype(np.float32)

Save = Callable[[onnx.ModelProto], Path]
Shape = Sequence[int | str | None]


@pytest.fixture
def save(tmp_path: Path) -> Save:
    def save(model: onnx.ModelProto) -> Path:
        path = tmp_path / "model.onnx"
        onnx.save(model, path)
        return path

    return save


def network(
    *tail: NodeProto,
    outputs: dict[str, Shape] | None = None,
    inputs: dict[str, Shape] | None = None,
    opset: int = 17,
    element: int = TensorProto.FLOAT,
) -> onnx.ModelProto:
    """x (batch, 6) -> hidden (batch, 8) -> logits (batch, 4), then whatever the test adds."""
    rng = np.random.default_rng(1)
    dtype = helper.tensor_dtype_to_np_dtype(element)
    weights = {"w1": (COLUMNS, WIDTH), "w2": (WIDTH, LABELS)}
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["before"]),
        helper.make_node("Relu", ["before"], ["hidden"]),
        helper.make_node("MatMul", ["hidden", "w2"], ["logits"]),
        *tail,
    ]
    graph = helper.make_graph(
        nodes,
        "network",
        [
            helper.make_tensor_value_info(name, element, shape)
            for name, shape in (inputs or {"x": ["batch", COLUMNS]}).items()
        ],
        [
            helper.make_tensor_value_info(name, element, shape)
            for name, shape in (outputs or {"logits": ["batch", LABELS]}).items()
        ],
        [
            numpy_helper.from_array(rng.normal(size=shape).astype(dtype), name)
            for name, shape in weights.items()
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def run(model: onnx.ModelProto, output: str, rows: np.ndarray = ROWS) -> np.ndarray:
    onnx.checker.check_model(model, full_check=True)
    found: np.ndarray = open_session(model.SerializeToString()).run([output], {"x": rows})[0]
    return found


def operators(source: Source) -> list[str]:
    return [node.op_type for node in source.model.graph.node]


def test_a_classifier_keeps_its_logits(save: Save) -> None:
    model = network()
    source = open_onnx(save(model), LABELS)
    assert (source.output, source.has_head) == ("logits", True)
    assert source.inputs == (TensorSpec(name="x", row_shape=(COLUMNS,)),)
    assert source.preprocessing is None
    assert source.facts["opset"] == 17
    np.testing.assert_array_equal(run(source.model, "logits"), run(model, "logits"))


def test_outputs_beside_the_logits_go_with_the_nodes_that_only_they_need(save: Save) -> None:
    extra = helper.make_node("Exp", ["before"], ["extra"])
    model = network(extra, outputs={"extra": ["batch", WIDTH], "logits": ["batch", LABELS]})
    source = open_onnx(save(model), LABELS)
    assert operators(source) == ["MatMul", "Relu", "MatMul"]
    assert [value.name for value in source.model.graph.output] == ["logits"]


def test_inputs_and_weights_that_nothing_reads_any_more_go_too(save: Save) -> None:
    model = network(
        helper.make_node("MatMul", ["x", "w3"], ["by_weight"]),
        helper.make_node("Add", ["by_weight", "y"], ["extra"]),
        outputs={"logits": ["batch", LABELS], "extra": ["batch", 3]},
        inputs={"x": ["batch", COLUMNS], "y": [1, 3]},
    )
    weight = numpy_helper.from_array(np.ones((COLUMNS, 3), np.float32), "w3")
    model.graph.initializer.append(weight)
    source = open_onnx(save(model), LABELS)
    assert [spec.name for spec in source.inputs] == ["x"]
    assert {tensor.name for tensor in source.model.graph.initializer} == {"w1", "w2"}


def test_an_output_named_like_logits_comes_before_another_of_its_shape(save: Save) -> None:
    twice = helper.make_node("Add", ["logits", "logits"], ["scaled"])
    shape = ["batch", LABELS]
    model = network(twice, outputs={"scaled": shape, "logits": shape})
    assert open_onnx(save(model), LABELS).output == "logits"
    assert open_onnx(save(model), LABELS, "scaled").output == "scaled"


@pytest.mark.parametrize("passing", [[], ["Identity"], ["Cast", "Identity"]])
def test_the_logits_before_a_final_sigmoid_are_read(save: Save, passing: list[str]) -> None:
    tail = [helper.make_node("Sigmoid", ["logits"], ["p0"])]
    for number, operator in enumerate(passing):
        node = helper.make_node(operator, [f"p{number}"], [f"p{number + 1}"])
        if operator == "Cast":
            node.attribute.append(helper.make_attribute("to", TensorProto.FLOAT))
        tail.append(node)
    last = f"p{len(passing)}"
    model = network(*tail, outputs={last: ["batch", LABELS]})
    source = open_onnx(save(model), LABELS)
    assert (source.output, source.has_head) == ("logits", True)
    assert last in source.facts["notes"][0]
    logits = run(source.model, "logits")
    np.testing.assert_allclose(1 / (1 + np.exp(-logits)), run(model, last), atol=1e-6)


@pytest.mark.parametrize("operator", ["Softmax", "LogSoftmax"])
def test_a_final_softmax_is_refused_unless_its_logits_are_asked_for(
    save: Save, operator: str
) -> None:
    softmax = helper.make_node(operator, ["logits"], ["p"], axis=1)
    path = save(network(softmax, outputs={"p": ["batch", LABELS]}))
    with pytest.raises(GraphError, match=rf"ends in a {operator}.*--output logits"):
        open_onnx(path, LABELS)
    source = open_onnx(path, LABELS, "logits")
    assert (source.output, source.has_head) == ("logits", True)
    assert "trained for a softmax" in source.facts["notes"][0]
    assert operators(source)[-1] == "MatMul"


def test_another_number_of_labels_is_an_error_until_it_is_called_a_feature(save: Save) -> None:
    path = save(network())
    with pytest.raises(GraphError, match=r"gives 4 numbers per row.*has 28 labels.*--no-head"):
        open_onnx(path, 28)
    with pytest.raises(GraphError, match=r"gives 4 numbers per row.*has 28 labels"):
        open_onnx(path, 28, has_head=True)
    source = open_onnx(path, 28, has_head=False)
    assert (source.output, source.has_head) == ("logits", False)


@pytest.mark.parametrize("shape", [["batch", 2, 4], ["batch", 2, 2, 2]])
def test_without_logits_the_hidden_state_is_the_output(save: Save, shape: list[int | str]) -> None:
    target = numpy_helper.from_array(np.array([-1, *shape[1:]], np.int64), "shape")
    model = network(
        helper.make_node("Reshape", ["hidden", "shape"], ["state"]),
        outputs={"hidden": ["batch", WIDTH], "state": shape},
    )
    model.graph.initializer.append(target)
    path = save(model)
    for has_head in (None, False):
        source = open_onnx(path, LABELS, has_head=has_head)
        assert (source.output, source.has_head) == ("state", False)
    with pytest.raises(GraphError, match="gives 8 numbers per row"):
        open_onnx(path, LABELS, has_head=True)


def test_a_tensor_inside_the_graph_can_be_named(save: Save) -> None:
    path = save(network())
    source = open_onnx(path, LABELS, "hidden", has_head=False)
    assert (source.output, source.has_head) == ("hidden", False)
    assert operators(source) == ["MatMul", "Relu"]
    with pytest.raises(GraphError, match=r"no tensor 'middle'; its outputs are logits"):
        open_onnx(path, LABELS, "middle")


def test_an_output_without_a_known_shape_needs_a_word_on_its_head(save: Save) -> None:
    model = network()
    odd = helper.make_node("Odd", ["logits"], ["y"], domain="my.domain")
    model.graph.node.append(odd)
    model.opset_import.append(helper.make_opsetid("my.domain", 1))
    value = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", None])
    model.graph.output[0].CopyFrom(value)
    path = save(model)
    with pytest.raises(GraphError, match=r"shape of output 'y' is not known.*--no-head"):
        open_onnx(path, LABELS)
    assert open_onnx(path, LABELS, has_head=True).has_head


def test_a_model_without_float_outputs_is_refused(save: Save) -> None:
    model = network(helper.make_node("ArgMax", ["logits"], ["best"]))
    value = helper.make_tensor_value_info("best", TensorProto.INT64, ["batch", 1])
    model.graph.output[0].CopyFrom(value)
    with pytest.raises(GraphError, match=r"no float tensor among the model's outputs \['best'\]"):
        open_onnx(save(model), LABELS)


def test_varying_dimensions_have_no_size(save: Save) -> None:
    model = network(
        inputs={"x": [None, "tokens", COLUMNS]}, outputs={"logits": [None, "tokens", LABELS]}
    )
    source = open_onnx(save(model), LABELS)
    assert source.inputs == (TensorSpec(name="x", row_shape=(None, COLUMNS)),)
    assert (source.output, source.has_head) == ("logits", False)


def test_a_fixed_batch_is_refused(save: Save) -> None:
    model = network(inputs={"x": [1, COLUMNS]}, outputs={"logits": [1, LABELS]})
    with pytest.raises(GraphError, match=r"input 'x' has a fixed batch of 1.*dynamic_shapes"):
        open_onnx(save(model), LABELS)


def test_an_input_without_a_batch_is_refused(save: Save) -> None:
    model = network(
        helper.make_node("Mul", ["logits", "scale"], ["y"]),
        inputs={"x": ["batch", COLUMNS], "scale": []},
        outputs={"y": ["batch", LABELS]},
    )
    with pytest.raises(GraphError, match="input 'scale' has no dimensions"):
        open_onnx(save(model), LABELS)


def test_an_input_of_another_type_is_refused(save: Save) -> None:
    model = network(element=TensorProto.DOUBLE)
    with pytest.raises(GraphError, match="input 'x' is no tensor of float32, int32"):
        open_onnx(save(model), LABELS)


def test_an_output_that_depends_on_no_input_is_refused(save: Save) -> None:
    constant = helper.make_node("MatMul", ["w1", "w2"], ["constant"])
    model = network(constant, outputs={"constant": [COLUMNS, LABELS]})
    with pytest.raises(GraphError, match="'constant' depends on no input"):
        open_onnx(save(model), LABELS)


def test_half_precision_is_kept(save: Save) -> None:
    source = open_onnx(save(network(element=TensorProto.FLOAT16)), LABELS)
    assert source.inputs[0].dtype == "float16"
    found = run(source.model, "logits", ROWS.astype(np.float16))
    np.testing.assert_allclose(found, run(network(), "logits"), rtol=0.05, atol=0.05)


def test_weights_listed_among_the_inputs_are_no_inputs(save: Save) -> None:
    model = network(opset=11)
    model.ir_version = 3
    model.graph.input.extend(
        helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        for tensor in model.graph.initializer
    )
    source = open_onnx(save(model), LABELS)
    assert [spec.name for spec in source.inputs] == ["x"]
    assert [value.name for value in source.model.graph.input] == ["x"]
    np.testing.assert_array_equal(run(source.model, "logits"), run(network(), "logits"))


def test_local_functions_are_inlined(save: Save) -> None:
    model = network(helper.make_node("Twice", ["logits"], ["y"], domain="local"))
    model.graph.output[0].name = "y"
    body = [helper.make_node("Add", ["a", "a"], ["b"])]
    opsets = [helper.make_opsetid("", 17)]
    model.functions.append(helper.make_function("local", "Twice", ["a"], ["b"], body, opsets))
    model.opset_import.append(helper.make_opsetid("local", 1))
    source = open_onnx(save(model), LABELS)
    assert operators(source) == ["MatMul", "Relu", "MatMul", "Add"]
    assert not source.model.functions
    np.testing.assert_allclose(run(source.model, "y"), 2 * run(network(), "logits"), rtol=1e-6)


def test_tensors_that_only_a_branch_reads_are_kept(save: Save) -> None:
    branches = {
        f"{name}_branch": helper.make_graph(
            [helper.make_node("Mul", ["logits", factor], [f"{name}_out"])],
            name,
            [],
            [helper.make_tensor_value_info(f"{name}_out", TensorProto.FLOAT, ["batch", LABELS])],
        )
        for name, factor in (("then", "two"), ("else", "three"))
    }
    model = network(
        helper.make_node("If", ["yes"], ["y"], **branches), outputs={"y": ["batch", LABELS]}
    )
    model.graph.initializer.extend(
        numpy_helper.from_array(np.array(value), name)
        for name, value in {"yes": True, "two": np.float32(2), "three": np.float32(3)}.items()
    )
    source = open_onnx(save(model), LABELS)
    np.testing.assert_allclose(run(source.model, "y"), 2 * run(network(), "logits"), rtol=1e-6)


def test_an_old_opset_is_refused(save: Save) -> None:
    with pytest.raises(GraphError, match=r"has opset 9, expected 11 or newer.*convert_version"):
        open_onnx(save(network(opset=9)), LABELS)


def test_nodes_out_of_order_are_refused_in_one_sentence(save: Save) -> None:
    model = network()
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend(reversed(nodes))
    with pytest.raises(GraphError, match=r"not a valid ONNX model: .*topologically") as refusal:
        open_onnx(save(model), LABELS)
    assert "\n" not in str(refusal.value)


def test_a_file_that_is_no_model_is_refused(tmp_path: Path, save: Save) -> None:
    with pytest.raises(CalibrationError, match="found no such file"):
        open_onnx(tmp_path / "missing.onnx", LABELS)
    text = tmp_path / "text.onnx"
    text.write_text("no model at all")
    with pytest.raises(GraphError, match="is not an ONNX model, or was cut short"):
        open_onnx(text, LABELS)
    path = save(network())
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(GraphError, match="is not an ONNX model, or was cut short"):
        open_onnx(path, LABELS)
    path.write_bytes(b"")
    with pytest.raises(GraphError, match="no opset of the default ONNX domain"):
        open_onnx(path, LABELS)


def external(path: Path, location: str, length: str | None = None, scale: int = 1) -> Path:
    """The network with its first weight in another file, wherever that is said to be."""
    model = network()
    weight = model.graph.initializer[0]
    data, weight.raw_data = weight.raw_data, b""
    weight.dims[0] *= scale
    weight.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, "offset": "16", "length": length}.items():
        if value is not None:
            weight.external_data.append(onnx.StringStringEntryProto(key=key, value=value))
    (path / "folder").mkdir(parents=True)
    (path / "folder" / "model.onnx").write_bytes(model.SerializeToString())
    for file in (path / "weights.bin", path / "folder" / "weights.bin"):
        file.write_bytes(bytes(16) + data)
    return path / "folder" / "model.onnx"


@pytest.mark.parametrize("length", [None, str(4 * COLUMNS * WIDTH)])
def test_external_data_is_put_inside(tmp_path: Path, length: str | None) -> None:
    source = open_onnx(external(tmp_path, "weights.bin", length), LABELS)
    assert source.model.graph.initializer[0].data_location == TensorProto.DEFAULT
    np.testing.assert_array_equal(run(source.model, "logits"), run(network(), "logits"))


@pytest.mark.parametrize("location", ["../weights.bin", "a/../../weights.bin", "..\\w.bin", ""])
def test_external_data_outside_the_folder_is_refused(tmp_path: Path, location: str) -> None:
    with pytest.raises(GraphError, match=r"tensor 'w1' .*outside the model's folder"):
        open_onnx(external(tmp_path, location), LABELS)


def test_external_data_at_an_absolute_path_is_refused(tmp_path: Path) -> None:
    location = str(tmp_path / "folder" / "weights.bin")
    with pytest.raises(GraphError, match=rf"tensor 'w1' .*{location}"):
        open_onnx(external(tmp_path, location), LABELS)


def test_a_link_out_of_the_folder_is_refused_and_one_inside_is_followed(tmp_path: Path) -> None:
    path = external(tmp_path, "link.bin")
    link = path.parent / "link.bin"
    link.symlink_to("weights.bin")
    assert open_onnx(path, LABELS).output == "logits"
    link.unlink()
    link.symlink_to("../weights.bin")
    with pytest.raises(GraphError, match=r"tensor 'w1' .*a link to .*outside the model's folder"):
        open_onnx(path, LABELS)


def test_missing_or_short_external_data_is_refused(tmp_path: Path) -> None:
    with pytest.raises(GraphError, match=r"'elsewhere.bin', which is missing"):
        open_onnx(external(tmp_path / "a", "elsewhere.bin"), LABELS)
    with pytest.raises(GraphError, match=r"found 192 bytes .* expected 384"):
        open_onnx(external(tmp_path / "b", "weights.bin", scale=2), LABELS)
    with pytest.raises(GraphError, match=r"\(length 8\).* expected 192"):
        open_onnx(external(tmp_path / "c", "weights.bin", "8"), LABELS)
    with pytest.raises(GraphError, match=r"\(length lots\).* expected 192"):
        open_onnx(external(tmp_path / "d", "weights.bin", "lots"), LABELS)


def test_weights_over_two_gibibytes_are_refused_before_they_are_read(tmp_path: Path) -> None:
    with pytest.raises(GraphError, match=r"2\.1 GiB of weights"):
        open_onnx(external(tmp_path, "weights.bin", scale=12_000_000), LABELS)
