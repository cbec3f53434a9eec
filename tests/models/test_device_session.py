from __future__ import annotations

import logging

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from models import device_session
from models.device_session import Device, host_value
from models.errors import SettingsError


def doubling() -> bytes:
    """x -> doubled, squared; float32 (rows,) each."""
    graph = helper.make_graph(
        [
            helper.make_node("Add", ["x", "x"], ["doubled"]),
            helper.make_node("Mul", ["x", "x"], ["squared"]),
        ],
        "doubling",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows"])],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows"])
            for name in ("doubled", "squared")
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    return model.SerializeToString()


@pytest.fixture
def without_arena(monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime then notices only in the session that there is no device."""
    monkeypatch.setattr(device_session, "_share_arena", lambda number: None)


@pytest.fixture
def no_device() -> None:
    try:
        Device("cuda").open(doubling())
    except SettingsError:
        return
    pytest.skip("there is a CUDA device here")


def test_outputs_come_in_the_order_of_the_graph() -> None:
    session = Device("cpu").open(doubling(), ["squared"])
    doubled, squared = session.run([host_value(np.array([1, 3], np.float32))])
    np.testing.assert_array_equal(doubled.numpy(), [2, 6])
    np.testing.assert_array_equal(squared.numpy(), [1, 9])


def test_a_run_leaves_the_outputs_of_the_runs_before_it_alone() -> None:
    session = Device("cpu").open(doubling())
    first = session.run([host_value(np.ones(2, np.float32))])
    kept = first[0].numpy()
    session.run([host_value(np.full(2, 5, np.float32))])
    np.testing.assert_array_equal(first[0].numpy(), [2, 2])
    np.testing.assert_array_equal(kept, [2, 2])


def test_answers_outlive_the_values_that_they_came_in() -> None:
    session = Device("cpu").open(doubling())
    kept = session.run([host_value(np.ones(1000, np.float32))])[0].numpy()
    for number in range(20):
        session.run([host_value(np.full(1000, number, np.float32))])
    np.testing.assert_array_equal(kept, np.full(1000, 2))


def test_values_need_not_be_contiguous() -> None:
    session = Device("cpu").open(doubling())
    every_other = np.arange(6, dtype=np.float32)[::2]
    np.testing.assert_array_equal(session.run([host_value(every_other)])[0].numpy(), [0, 4, 8])
    np.testing.assert_array_equal(Device("cpu").put(every_other).numpy(), every_other)


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
@pytest.mark.usefixtures("no_device")
def test_a_device_that_is_not_there_is_refused(provider: device_session.Provider) -> None:
    with pytest.raises(SettingsError, match="set the device to cpu") as refused:
        Device(provider)
    assert "ExecutionProvider" in str(refused.value)


@pytest.mark.usefixtures("no_device", "without_arena")
def test_a_session_that_would_run_on_the_cpu_is_refused() -> None:
    with pytest.raises(SettingsError, match="sessions run on CPUExecutionProvider"):
        Device("cuda").open(doubling())


@pytest.mark.usefixtures("no_device", "without_arena")
def test_a_provider_that_cannot_be_loaded_is_refused_without_a_print(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SettingsError, match="TensorRT's libraries"):
        Device("tensorrt").open(doubling())
    assert capsys.readouterr().out == ""


@pytest.mark.usefixtures("without_arena")
def test_tensorrt_warns_that_its_arithmetic_is_not_the_certified_one(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING, "bentoml.offramp"):
        Device("tensorrt")
    assert "event=arithmetic_differs" in caplog.text
    assert "certify thresholds" in caplog.text
