"""The device logic over values on the CPU; `tests.cuda` runs the same on a device."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from benchmarks.random_encoder import random_encoder, random_rows
from models.cuda_runtime import CudaRuntime, DeviceCarry, is_out_of_memory
from models.device_session import Device, host_value
from models.runtime import Answers, Carry, StageRuntime
from tests.conftest import ROOT

SIZES = {
    "layers": 3,
    "hidden": 16,
    "heads": 2,
    "inner": 24,
    "labels": 4,
    "head_width": 8,
    "vocabulary": 50,
    "positions": 32,
}
MODEL, CARRIES = random_encoder(seed=1, **SIZES)
STAGES = len(CARRIES) + 1


@pytest.fixture(scope="module")
def device() -> CudaRuntime:
    return CudaRuntime(MODEL, CARRIES, provider="cpu")


@pytest.fixture(scope="module")
def host() -> StageRuntime:
    return StageRuntime(MODEL, CARRIES)


def rows(count: int, seed: int = 0) -> Carry:
    return random_rows(count, 16, seed, SIZES["vocabulary"])


def assert_same(one: Answers, other: Answers) -> None:
    np.testing.assert_allclose(one.probabilities, other.probabilities, atol=1e-5)
    np.testing.assert_allclose(one.score, other.score, atol=1e-5)
    clear = one.score > 1e-5  # nearer to a label's threshold the set may flip
    np.testing.assert_array_equal(one.labels[clear], other.labels[clear])


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_rows_of_many_batches_meet_as_they_do_on_the_host(
    device: CudaRuntime, host: StageRuntime, data: st.DataObject
) -> None:
    batches = [rows(size, size) for size in data.draw(st.lists(st.integers(1, 6), min_size=1))]
    on_device, on_host = list(batches), list(batches)
    for stage in range(1, STAGES + 1):
        for place, (there, here) in enumerate(zip(on_device, on_host, strict=True)):
            answers, on_device[place] = device.run(stage, there)
            expected, on_host[place] = host.run(stage, here)
            assert_same(answers, expected)
        if stage < STAGES:
            taken = [data.draw(some_of(len(carry[0]))) for carry in on_host]
            on_device = [device.gather(list(zip(on_device, taken, strict=True)))]
            on_host = [host.gather(list(zip(on_host, taken, strict=True)))]


def some_of(count: int) -> st.SearchStrategy[np.ndarray | None]:
    """Rows of a carry: all, or a few in any order."""
    places = st.lists(st.integers(0, count - 1), min_size=1, max_size=count, unique=True)
    return st.none() | places.map(np.array)


@pytest.mark.parametrize("exits", [None, (1, 3), (2, 3), (3,)])
def test_stages_are_those_of_the_host(exits: tuple[int, ...] | None) -> None:
    device = CudaRuntime(MODEL, CARRIES, exits, provider="cpu")
    host = StageRuntime(MODEL, CARRIES, exits=exits)
    assert device.exits == host.exits
    there, here = rows(5), rows(5)
    for stage in range(1, len(host.exits) + 1):
        answers, there = device.run(stage, there)
        expected, here = host.run(stage, here)
        assert_same(answers, expected)
        for value, array in zip(there.tensors, here, strict=True):
            np.testing.assert_allclose(value.numpy(), array, atol=1e-5)


def test_staged_equals_whole(device: CudaRuntime) -> None:
    whole, carry = rows(5), rows(5)
    for stage in range(1, STAGES + 1):
        answers, carry = device.run(stage, carry)
    assert_same(answers, StageRuntime(MODEL, CARRIES, exits=(STAGES,)).run(1, whole)[0])


def test_a_whole_carry_is_given_back_as_it_is(device: CudaRuntime) -> None:
    _, carry = device.run(1, rows(3))
    assert device.gather([(carry, None)]) is carry


def test_rows_that_wait_for_stage_1_are_joined_on_the_host(device: CudaRuntime) -> None:
    ids, mask = device.gather([(rows(2), np.array([1])), (rows(3), None)])
    assert isinstance(ids, np.ndarray)
    np.testing.assert_array_equal(mask, np.concatenate([rows(2)[1][1:], rows(3)[1]]))


def test_a_carry_knows_its_stage_and_rows(device: CudaRuntime) -> None:
    _, carry = device.run(1, rows(4))
    assert isinstance(carry, DeviceCarry)
    assert (carry.stage, carry.rows) == (2, 4)
    joined = device.gather([(carry, np.array([0, 2])), (carry, None)])
    assert (joined.stage, joined.rows) == (2, 6)
    assert {tensor.shape()[0] for tensor in joined.tensors} == {6}


def test_an_answer_that_is_carried_on_is_answered_too() -> None:
    carries = [[*CARRIES[0], "exit1_probabilities", "exit1_labels"], list(CARRIES[1])]
    runtime = CudaRuntime(MODEL, carries, provider="cpu")
    answers, carry = runtime.run(1, rows(3))
    np.testing.assert_array_equal(carry.tensors[-2].numpy(), answers.probabilities)
    np.testing.assert_array_equal(carry.tensors[-1].numpy(), answers.labels)
    _, carry = runtime.run(2, runtime.gather([(carry, np.array([2, 0]))]))
    assert carry.rows == 2


def test_lanes_may_share_it(device: CudaRuntime, host: StageRuntime) -> None:
    def answer(seed: int) -> list[Answers]:
        found, carry = [], rows(4, seed)
        for stage in range(1, STAGES + 1):
            answers, carry = device.run(stage, device.gather([(carry, np.array([3, 1]))] * 2))
            found.append(answers)
            carry = device.gather([(carry, None)])
        return found

    with ThreadPoolExecutor(4) as lanes:
        together = list(lanes.map(answer, range(40)))
    for found, alone in zip(together, map(answer, range(40)), strict=True):
        for one, other in zip(found, alone, strict=True):
            assert_same(one, other)


@pytest.mark.parametrize(
    "message",
    [
        "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : bfc_arena.cc:376 AllocateRawInternal "
        "Failed to allocate memory for requested buffer of size 4294967296",
        "Available memory of 5513472 is smaller than requested bytes of 20751872",
        "CUDA failure 2: out of memory ; GPU=0 ; expr=cudaMalloc((void**)&p, size);",
        "CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED ; GPU=0",
        "CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
        "std::bad_alloc",
    ],
)
def test_messages_of_exhausted_memory_are_known(message: str) -> None:
    assert is_out_of_memory(RuntimeError(message))


def test_memory_that_is_really_exhausted_is_known() -> None:
    session = Device("cpu").open(expanding())
    with pytest.raises(Exception, match=r"memory|alloc") as error:
        session.run([host_value(np.ones(1, np.float32)), host_value(np.array([2**45]))])
    assert is_out_of_memory(error.value)


def expanding() -> bytes:
    """(x, shape) -> x of that shape."""
    graph = helper.make_graph(
        [helper.make_node("Expand", ["x", "shape"], ["wide"])],
        "expanding",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, [1]),
            helper.make_tensor_value_info("shape", TensorProto.INT64, [1]),
        ],
        [helper.make_tensor_value_info("wide", TensorProto.FLOAT, ["n"])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return model.SerializeToString()


def test_rows_that_the_model_cannot_compute_are_no_lack_of_memory(device: CudaRuntime) -> None:
    ids, mask = rows(2)
    with pytest.raises(Exception, match="indices element out of data bounds") as error:
        device.run(1, (ids + 1000, mask))
    assert not is_out_of_memory(error.value)


def test_neither_runtime_nor_its_check_imports_the_service() -> None:
    code = """
import sys
import benchmarks.gpu_check, benchmarks.random_encoder, models.cuda_runtime, models.runtime
import tests.cuda.test_cuda
model, carries = benchmarks.random_encoder.random_encoder(layers=2, vocabulary=9)
runtime = models.cuda_runtime.CudaRuntime(model, carries, provider="cpu")
runtime.run(1, benchmarks.random_encoder.random_rows(2, 8, vocabulary=9))
print(sorted({"pydantic", "bentoml", "torch", "pytest", "scipy"} & set(sys.modules)))
"""
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert result.stdout.strip() == "[]"
