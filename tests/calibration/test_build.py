from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from rich.progress import Progress

from calibration.build import ModelOptions, build_bundle, with_names
from calibration.certificate import certify
from calibration.dataset import SPLITS, from_arrays
from calibration.features import PassOptions
from calibration.guarantee import GuaranteeOptions
from calibration.head_options import HeadOptions
from calibration.input_choice import InputOptions
from calibration.options import CalibrationOptions
from calibration.readers import DataOptions
from calibration.splits import assign_splits
from models.bundle import Bundle, read_bundle
from models.errors import CalibrationError, GraphError, OfframpError
from models.heads import output_name
from models.runtime import StageRuntime, open_session
from tests.tiny_models import labelled_rows, residual_mlp

ROWS = 3000
NAMES = ("red", "green", "blue")


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    return residual_mlp(4, width=12, inner=8000)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, model: onnx.ModelProto) -> Path:
    folder = tmp_path_factory.mktemp("model")
    onnx.save(model, folder / "model.onnx")
    x, labels = labelled_rows(model, ROWS)
    np.savez(folder / "data.npz", x=x, y=labels, labels=np.array(NAMES))
    return folder


def build(
    folder: Path,
    out: Path,
    data: DataOptions | None = None,
    source: ModelOptions | None = None,
    **options: object,
) -> Bundle:
    calibration = CalibrationOptions(
        name="tiny",
        features=PassOptions(folder / "cache", lanes=1),
        guarantee=GuaranteeOptions(epsilons=(0.1,)),
        heads=HeadOptions(hidden=32, batch=64, max_epochs=25),
    )
    return build_bundle(
        out,
        source or ModelOptions(str(folder / "model.onnx")),
        data or DataOptions(path=folder / "data.npz"),
        replace(calibration, **options),  # type: ignore[arg-type]
        Progress(disable=True),
    )


@pytest.fixture(scope="module")
def built(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return build(folder, tmp_path_factory.mktemp("bundles") / "tiny")


def test_the_bundle_is_whole_and_says_what_it_is(built: Bundle) -> None:
    assert read_bundle(built.path) == built
    manifest = built.manifest
    assert manifest.labels == NAMES
    assert [spec.name for spec in manifest.inputs] == ["x"]
    layers = [profile.layer for profile in manifest.profile.layers]
    assert set(layers) <= {*(f"net.blocks.{k}" for k in range(4)), "full depth"}
    assert len(layers) > 2
    assert manifest.certificate.promises[0].against == "model"
    assert manifest.exits[-1].layer == "full depth"


def test_the_last_exit_gives_the_models_own_logits(built: Bundle, model: onnx.ModelProto) -> None:
    x, _ = labelled_rows(model, 50, seed=1)
    expected = open_session(model.SerializeToString()).run(None, {"x": x})[0]
    name = output_name(built.manifest.depth, "logits")
    found = open_session(built.model).run([name], {"x": x})[0]
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_what_is_certified_is_what_the_stages_serve(built: Bundle, folder: Path) -> None:
    """The certify split, run through the served stages, gives the certificate's mean loss."""
    arrays = np.load(folder / "data.npz")
    dataset = from_arrays(arrays["x"], arrays["y"], NAMES)
    rows = arrays["x"][assign_splits(dataset, 0) == SPLITS.index("certify")]
    runtime = StageRuntime(built.model, built.manifest.carries)
    answers = runtime.all_exits((rows,))
    exits = built.manifest.policy.route([exit_answers.score for exit_answers in answers])
    labels = np.stack([exit_answers.labels for exit_answers in answers])
    differ = (labels[exits - 1, np.arange(len(rows))] != answers[-1].labels).any(axis=1)
    assert built.manifest.certificate.rows == len(rows)
    assert differ.mean() == pytest.approx(
        built.manifest.certificate.promises[0].mean_loss, abs=2 / len(rows)
    )


def test_rows_leave_early_and_the_time_says_so(built: Bundle) -> None:
    measured = built.manifest.test
    assert built.manifest.certificate.certified
    assert measured.exits[0].share_leaving > 0.2
    shares = [profile.share_leaving for profile in measured.exits]
    assert sum(shares) == pytest.approx(1)
    times = [profile.time for profile in measured.exits]
    assert times == sorted(times)
    whole = built.manifest.costs.whole_milliseconds[-1]
    stages = sum(stage[-1] for stage in built.manifest.costs.stage_milliseconds)
    assert times[-1] == pytest.approx(stages / whole)


def test_a_model_without_a_head_gets_one_and_may_be_cut_short(folder: Path, tmp_path: Path) -> None:
    source = ModelOptions(str(folder / "model.onnx"), output="carry3", has_head=False)
    manifest = build(folder, tmp_path / "out", source=source).manifest
    (promise,) = manifest.certificate.promises
    assert (promise.guarantee, promise.against) == ("sample-f1", "labels")
    nearest = min(manifest.profile.layers, key=lambda layer: layer.to_labels.w2.value)
    assert manifest.certificate.certified
    assert manifest.exits[-1].layer == nearest.layer
    assert (nearest.layer == "full depth") == (not any(manifest.costs.beyond_milliseconds))


def test_a_teachers_file_is_learned_from_and_measured_against(folder: Path, tmp_path: Path) -> None:
    y = np.load(folder / "data.npz")["y"]
    np.save(tmp_path / "teacher.npy", y * 0.8 + 0.1)
    source = ModelOptions(str(folder / "model.onnx"), teacher=str(tmp_path / "teacher.npy"))
    manifest = build(folder, tmp_path / "out", source=source).manifest
    assert manifest.profile.layers[-1].to_teacher.w2.value > 0


@pytest.mark.parametrize(
    ("teacher", "message"),
    [
        (np.zeros((ROWS, 2)), r"shape \(3000, 2\), expected \(3000, 3\)"),
        (np.full((ROWS, 3), 1.5), r"outside \[0, 1\]"),
        (np.full((ROWS, 3), np.nan), r"outside \[0, 1\]"),
    ],
)
def test_a_teacher_that_does_not_fit_is_refused(
    folder: Path, tmp_path: Path, teacher: np.ndarray, message: str
) -> None:
    np.save(tmp_path / "teacher.npy", teacher)
    source = ModelOptions(str(folder / "model.onnx"), teacher=str(tmp_path / "teacher.npy"))
    with pytest.raises(CalibrationError, match=message):
        build(folder, tmp_path / "out", source=source)


def with_x(folder: Path, tmp_path: Path, x: np.ndarray) -> DataOptions:
    y = np.load(folder / "data.npz")["y"]
    np.savez(tmp_path / "data.npz", x=x, y=y)
    return DataOptions(path=tmp_path / "data.npz")


def test_data_that_does_not_fit_the_model_is_refused(folder: Path, tmp_path: Path) -> None:
    x = np.load(folder / "data.npz")["x"]
    with pytest.raises(CalibrationError, match=r"does not fit the model.*\(11,\).*\(n, 12\)"):
        build(folder, tmp_path / "out", data=with_x(folder, tmp_path, x[:, :11]))


def test_nan_features_are_counted_and_named(folder: Path, tmp_path: Path) -> None:
    x = np.load(folder / "data.npz")["x"].copy()
    x[[100, 200], 4] = np.nan
    with pytest.raises(CalibrationError, match=r"2 of 3000 rows.*100.*nan at position \[4\]"):
        build(folder, tmp_path / "out", data=with_x(folder, tmp_path, x))


def in_half_precision_and_opset_11(model: onnx.ModelProto) -> onnx.ModelProto:
    half = onnx.ModelProto()
    half.CopyFrom(model)
    half.opset_import[0].version = 11
    for value in [*half.graph.input, *half.graph.output]:
        value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    for tensor in half.graph.initializer:
        values = numpy_helper.to_array(tensor).astype(np.float16)
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    return half


def test_an_old_model_in_half_precision_is_served_as_certified(
    folder: Path, tmp_path: Path, model: onnx.ModelProto
) -> None:
    half = in_half_precision_and_opset_11(model)
    onnx.save(half, tmp_path / "half.onnx")
    source = ModelOptions(str(tmp_path / "half.onnx"))
    bundle = build(folder, tmp_path / "out", source=source)
    assert bundle.manifest.inputs[0].dtype == "float16"
    x = labelled_rows(model, 50, seed=1)[0].astype(np.float16)
    expected = open_session(half.SerializeToString()).run(None, {"x": x})[0]
    logits = output_name(bundle.manifest.depth, "logits")
    found = open_session(bundle.model).run([logits], {"x": x})[0]
    # the source rounds its output to half precision
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)


def test_texts_for_a_model_of_numbers_are_refused(folder: Path, tmp_path: Path) -> None:
    lines = [f"text {k}\t{NAMES[k % 3]}" for k in range(1500)]
    (tmp_path / "data.tsv").write_text("text\tlabels\n" + "\n".join(lines) + "\n")
    with pytest.raises(CalibrationError, match="without a tokenizer"):
        build(folder, tmp_path / "out", data=DataOptions(path=tmp_path / "data.tsv"))


def test_a_preprocessing_file_with_a_mistake_is_explained(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "spec.json").write_text('{"kind": "image", "hight": 3}')
    inputs = InputOptions(preprocessing=tmp_path / "spec.json")
    source = ModelOptions(str(folder / "model.onnx"), inputs=inputs)
    with pytest.raises(CalibrationError, match=r"spec.json: image.*height"):
        build(folder, tmp_path / "out", source=source)


def test_a_failed_calibration_leaves_nothing_behind(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "bundles" / "out"
    source = ModelOptions(str(folder / "model.onnx"), output="carry0", has_head=False)
    with pytest.raises(GraphError):
        build(folder, out, source=source)
    assert list(out.parent.iterdir()) == []


def test_labels_take_the_models_order() -> None:
    x, labels = np.zeros((4, 2), np.float32), np.eye(4, 3, dtype=bool)
    data = from_arrays(x, labels, NAMES)
    turned = with_names(data, ("blue", "red", "green"))
    np.testing.assert_array_equal(turned.labels, labels[:, [2, 0, 1]])
    assert with_names(from_arrays(x, labels, ("0", "1", "2")), NAMES).names == NAMES
    assert with_names(data, None) is data


def test_labels_that_are_not_the_models_are_named() -> None:
    data = from_arrays(np.zeros((4, 2), np.float32), np.eye(4, 3, dtype=bool), NAMES)
    with pytest.raises(OfframpError, match=r"only the data has 'blue'.*only the model has 'pink'"):
        with_names(data, ("red", "green", "pink"))


def test_a_certified_bundle_has_no_exit_that_its_policy_turned_off(built: Bundle) -> None:
    assert built.manifest.certificate.certified
    assert None not in built.manifest.policy.thresholds


def test_exits_of_a_model_that_is_too_quick_do_not_pay_and_say_so(tmp_path: Path) -> None:
    quick = residual_mlp(3, width=12)
    onnx.save(quick, tmp_path / "quick.onnx")
    x, labels = labelled_rows(quick, 1500)
    np.savez(tmp_path / "data.npz", x=x, y=labels)
    source = ModelOptions(str(tmp_path / "quick.onnx"))
    manifest = build(tmp_path, tmp_path / "out", source=source).manifest
    assert manifest.depth == 1
    assert any("does not pay" in decision.reason for decision in manifest.placement)
    assert "no early exit is left" in manifest.certificate.sentence


def test_a_shortened_model_that_nothing_is_promised_of_gets_its_depth_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worse = residual_mlp(4, width=12, inner=8000)
    for tensor in worse.graph.initializer:
        if tensor.name in ("down2", "down3"):  # deep blocks that only scramble
            scrambled = numpy_helper.to_array(tensor) * 10
            tensor.CopyFrom(numpy_helper.from_array(scrambled, tensor.name))
    onnx.save(worse, tmp_path / "worse.onnx")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(ROWS, 12)).astype(np.float32)
    labels = x[:, :3] + rng.normal(size=(ROWS, 3)) * 0.3 > 0
    np.savez(tmp_path / "data.npz", x=x, y=labels)
    source = ModelOptions(str(tmp_path / "worse.onnx"), output="carry3", has_head=False)

    shortened = build(tmp_path, tmp_path / "short", source=source).manifest
    assert shortened.certificate.certified
    assert shortened.exits[-1].layer != "full depth"

    def certify_nothing(path, answers, truth, guarantees, *rest):  # type: ignore[no-untyped-def]
        impossible = replace(guarantees, delta=1e-300)
        return certify(path, answers, truth, impossible, *rest)

    monkeypatch.setattr("calibration.placed_exits.certify", certify_nothing)
    manifest = build(tmp_path, tmp_path / "long", source=source).manifest
    assert not manifest.certificate.certified
    assert manifest.exits[-1].layer == "full depth"
    assert all(exit_.threshold is None for exit_ in manifest.exits)
    assert manifest.test.policy.set_agreement == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has the device")
def test_a_missing_device_is_told_before_the_pass(folder: Path, tmp_path: Path) -> None:
    features = PassOptions(tmp_path / "cache", lanes=1)
    with pytest.raises(CalibrationError, match="no CUDA device"):
        build(folder, tmp_path / "out", device="cuda", features=features)
    assert not (tmp_path / "cache").exists()
