"""The runtime on a CUDA device, with a random encoder of MiniLM's shape.

    python -m unittest -v tests.cuda.test_cuda

Skipped, with the reason, where no CUDA device is; only the refusal is tested everywhere.
"""

# ruff: noqa: PT027

from __future__ import annotations

import subprocess
import unittest
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar

import numpy as np

from benchmarks.random_encoder import random_encoder, random_rows
from models.cuda_runtime import CudaRuntime, DeviceCarry, is_out_of_memory
from models.device_join import MOST_PIECES, DeviceJoin
from models.device_session import PROVIDERS, Device, host_value
from models.errors import SettingsError
from models.runtime import Answers, Carry, StageRuntime, join_pieces

TOKENS = 32
MISSING_DEVICE = 99
MIB_OF_OTHERS = 16  # that other processes on the device may take meanwhile


def first(rows: Carry, count: int) -> Carry:
    """The first rows of tensors."""
    return tuple(tensor[:count] for tensor in rows)


def on_host(carry: DeviceCarry) -> Carry:
    """A copy of the rows."""
    return tuple(tensor.numpy() for tensor in carry.tensors)


class Refusal(unittest.TestCase):
    """Where CUDA is not there."""

    def test_a_device_that_is_not_there_is_refused(self) -> None:
        model, carries = random_encoder(layers=2, hidden=24, heads=2, inner=32, vocabulary=9)
        with self.assertRaisesRegex(SettingsError, f"cannot use cuda on device {MISSING_DEVICE}"):
            CudaRuntime(model, carries, device_id=MISSING_DEVICE)


class OnDevice(unittest.TestCase):
    """Where CUDA is there."""

    model: ClassVar[bytes]
    carries: ClassVar[list[tuple[str, ...]]]
    runtime: ClassVar[CudaRuntime]
    stages: ClassVar[int]

    @classmethod
    def setUpClass(cls) -> None:
        try:
            Device("cuda")
            cls.model, cls.carries = random_encoder()
            cls.runtime = CudaRuntime(cls.model, cls.carries)
        except SettingsError as error:
            raise unittest.SkipTest(str(error)) from None
        cls.stages = len(cls.runtime.exits)

    def assert_same(self, one: Answers, other: Answers, tolerance: float) -> None:
        np.testing.assert_allclose(one.probabilities, other.probabilities, atol=tolerance)
        np.testing.assert_allclose(one.score, other.score, atol=tolerance)
        clear = one.score > 4 * tolerance  # nearer to a label's threshold the set may flip
        np.testing.assert_array_equal(one.labels[clear], other.labels[clear])

    def through(self, rows: Carry) -> list[Answers]:
        """All exits' answers for rows that go together."""
        found = []
        carry: Carry | DeviceCarry = rows
        for stage in range(1, self.stages + 1):
            answers, carry = self.runtime.run(stage, carry)
            found.append(answers)
        return found

    def test_batched_equals_alone_while_rows_leave(self) -> None:
        rows = random_rows(24, TOKENS)
        alone = [self.through(tuple(tensor[row : row + 1] for tensor in rows)) for row in range(24)]
        rng = np.random.default_rng(0)
        present = np.arange(24)
        carry: Carry | DeviceCarry = rows
        for stage in range(1, self.stages + 1):
            answers, carry = self.runtime.run(stage, carry)
            expected = Answers.concatenate([alone[row][stage - 1] for row in present])
            self.assert_same(answers, expected, 1e-4)
            stay = rng.permutation(len(present))[: max(2, len(present) * 2 // 3)]
            present = present[stay]
            carry = self.runtime.gather([(carry, stay)]) if stage < self.stages else carry

    def test_staged_equals_whole(self) -> None:
        rows = random_rows(16, TOKENS)
        whole = CudaRuntime(self.model, self.carries, exits=(self.stages,))
        self.assert_same(whole.run(1, rows)[0], self.through(rows)[-1], 1e-4)

    def test_equals_the_cpu(self) -> None:
        rows = random_rows(16, TOKENS)
        expected = StageRuntime(self.model, self.carries).all_exits(rows)
        for answers, answers_of_cpu in zip(self.through(rows), expected, strict=True):
            self.assert_same(answers, answers_of_cpu, 1e-3)

    def test_carries_never_leave_the_device(self) -> None:
        carry: Carry | DeviceCarry = random_rows(8, TOKENS)
        for stage in range(1, self.stages):
            _, carry = self.runtime.run(stage, carry)
            carry = self.runtime.gather([(carry, np.arange(7)), (carry, None)])
            carry = self.runtime.gather([(carry, np.arange(8))])
            assert {value.device_name() for value in carry.tensors} == {"cuda"}

    def test_an_answer_that_is_carried_on_stays_there_and_comes_to_the_host(self) -> None:
        carries = [[*self.carries[0], "exit1_probabilities", "exit1_labels"], *self.carries[1:]]
        answers, carry = CudaRuntime(self.model, carries).run(1, random_rows(3, TOKENS))
        assert {value.device_name() for value in carry.tensors} == {"cuda"}
        np.testing.assert_array_equal(carry.tensors[-2].numpy(), answers.probabilities)
        np.testing.assert_array_equal(carry.tensors[-1].numpy(), answers.labels)

    def test_rows_of_many_batches_are_joined(self) -> None:
        rng = np.random.default_rng(0)
        carries = [self.runtime.run(1, random_rows(5, TOKENS, seed))[1] for seed in range(20)]
        for count in (1, 2, MOST_PIECES, MOST_PIECES + 1, 20):
            taken = [
                (carry, rng.integers(0, 5, rng.integers(1, 6))) for carry in carries[: count - 1]
            ]
            taken.append((carries[count - 1], None))
            expected = join_pieces([(on_host(carry), rows) for carry, rows in taken])
            joined = on_host(self.runtime.gather(taken))
            for tensor, other in zip(joined, expected, strict=True):
                np.testing.assert_array_equal(tensor, other)

    def test_tensors_of_every_type_are_joined(self) -> None:
        device = Device("cuda")
        elements = {np.float32: 1, np.float16: 10, np.int64: 7, np.bool_: 9}
        join = DeviceJoin(list(elements.values()), device)
        rng = np.random.default_rng(0)
        arrays = [rng.integers(0, 2, (6, 3)).astype(dtype) for dtype in elements]
        part = (tuple(map(device.put, arrays)), np.array([5, 0, 2]))
        for value, array in zip(join.join([part, part]), arrays, strict=True):
            assert value.device_name() == "cuda"
            np.testing.assert_array_equal(value.numpy(), array[[5, 0, 2, 5, 0, 2]])

    def test_lanes_may_share_it(self) -> None:
        with ThreadPoolExecutor(4) as lanes:
            batches = [random_rows(1 + seed % 7, TOKENS, seed) for seed in range(40)]
            together = list(lanes.map(self.through, batches))
        for found, rows in zip(together, batches, strict=True):
            for answers, alone in zip(found, self.through(rows), strict=True):
                self.assert_same(answers, alone, 1e-4)

    def test_memory_is_flat_over_many_batch_sizes(self) -> None:
        self.go_through_batch_sizes(seed=0)
        before = self.used_mib()
        for seed in range(1, 6):
            self.go_through_batch_sizes(seed)
        assert self.used_mib() <= before + MIB_OF_OTHERS

    def go_through_batch_sizes(self, seed: int) -> None:
        rows = random_rows(64, TOKENS)
        for size in np.random.default_rng(seed).permutation(np.arange(1, 65)).tolist():
            _, carry = self.runtime.run(1, first(rows, size))
            for stage in range(2, self.stages + 1):
                carry = self.runtime.gather([(carry, np.arange((carry.rows + 1) // 2))] * 2)
                _, carry = self.runtime.run(stage, carry)

    def used_mib(self) -> int:
        query = ["nvidia-smi", "-i", "0", "--query-gpu=memory.used"]
        try:
            told = subprocess.run(
                [*query, "--format=csv,noheader,nounits"],
                capture_output=True,
                text=True,
                check=True,
            )
        except (OSError, subprocess.CalledProcessError) as error:
            raise unittest.SkipTest(
                f"nvidia-smi does not tell the memory in use: {error}"
            ) from None
        return int(told.stdout)

    def test_exhausted_memory_is_known_and_does_not_last(self) -> None:
        rows = random_rows(2, TOKENS)
        before = self.through(rows)[-1]
        session = Device("cuda").open(expanding())
        with self.assertRaises(Exception) as failed:
            session.run([host_value(np.ones(1, np.float32)), host_value(np.array([2**45]))])
        assert is_out_of_memory(failed.exception), failed.exception
        self.assert_same(before, self.through(rows)[-1], 1e-4)

    def test_no_node_that_computes_falls_to_the_cpu(self) -> None:
        import onnx
        import onnxruntime

        from models.graph import split_stages

        stages = split_stages(onnx.load_model_from_string(self.model), self.carries)
        options = onnxruntime.SessionOptions()
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        for stage in stages:
            session = onnxruntime.InferenceSession(
                stage.SerializeToString(), options, [PROVIDERS["cuda"]], enable_fallback=0
            )
            fallen = [
                node.name
                for part in session.get_provider_graph_assignment_info()
                if part.ep_name != PROVIDERS["cuda"]
                for node in part.get_nodes()
                if node.op_type != "Shape"  # shapes are numbers of the host
            ]
            assert not fallen


def expanding() -> bytes:
    """A graph (x, shape) -> x of that shape."""
    from onnx import TensorProto, helper

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


if __name__ == "__main__":
    unittest.main()
