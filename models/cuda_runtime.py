"""The stage runtime on a CUDA device: carries stay there, only answers come to the host.

Like `models.runtime` it knows nothing of policies, requests or clocks, and lanes may share it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from models.device_join import DeviceJoin, Tensors
from models.device_session import Device, Provider, host_value
from models.graph import STAGE_OUTPUTS, split_stages
from models.heads import output_name
from models.runtime import Answers, Carry, Piece, join_pieces

if TYPE_CHECKING:
    import onnx

OUT_OF_MEMORY = (
    "failed to allocate memory",  # ONNX Runtime's arena, from the device
    "is smaller than requested bytes",  # its arena, at its limit
    "out of memory",  # the CUDA runtime: "CUDA failure 2: out of memory"
    "alloc_failed",  # CUBLAS_STATUS_ALLOC_FAILED, and cuDNN's and cuFFT's
    "allocation_failed",  # cuDNN 9: ..._DEVICE_ALLOCATION_FAILED
    "bad_alloc",
    "bad allocation",
)


@dataclass(frozen=True)
class DeviceCarry:
    """The tensors of b rows that wait on the device for a stage.

    stage : that runs next
    rows : b
    tensors : (b, ...) each; none behind the last stage
    """

    stage: int
    rows: int
    tensors: Tensors


class CudaRuntime:
    """Runs the stages of a multi-head graph on a device, each by a session of its own.

    Parameters
    ----------
    model : the serialized multi-head graph
    carries : K - 1 groups of tensor names, as recorded in the bundle
    exits : numbers of the exits that have a stage of their own, see `models.runtime.StageRuntime`
    device_id : number of the CUDA device
    provider : what computes. With `tensorrt` the arithmetic is another than that of `cuda`, so that
        thresholds must be certified for it; `cpu` does the same without a device.

    Raises
    ------
    SettingsError
        When the device cannot be used, see `models.device_session.Device`.
    """

    def __init__(
        self,
        model: bytes,
        carries: Sequence[Sequence[str]],
        exits: Sequence[int] | None = None,
        device_id: int = 0,
        provider: Provider = "cuda",
    ) -> None:
        import onnx

        self._device = Device(provider, device_id)
        self.exits = tuple(exits or range(1, len(carries) + 2))
        cut = [carries[number - 1] for number in self.exits[:-1]]
        stages = split_stages(onnx.load_model_from_string(model), cut, self.exits)
        self._carries = [tuple(carry) for carry in [*cut, ()]]
        self._answers = [
            [output_name(number, kind) for kind in STAGE_OUTPUTS] for number in self.exits
        ]
        self._sessions = [
            # an answer that is carried on stays on the device too, and is copied
            self._device.open(stage.SerializeToString(), set(answers).difference(carry))
            for stage, answers, carry in zip(stages, self._answers, self._carries, strict=True)
        ]
        self._joins = self._open_joins(stages[1:])

    def run(self, stage: int, carry: Carry | DeviceCarry) -> tuple[Answers, DeviceCarry]:
        """Run stage `stage` (1..S) on the rows of `carry`; into stage 1 goes the model's input."""
        session = self._sessions[stage - 1]
        values = carry.tensors if isinstance(carry, DeviceCarry) else self._enter(carry)
        outputs = session.run(values)
        made = dict(zip(session.inputs, values, strict=True))
        made.update(zip(session.outputs, outputs, strict=True))
        answers = Answers(*(made[name].numpy() for name in self._answers[stage - 1]))
        onward = tuple(made[name] for name in self._carries[stage - 1])
        return answers, DeviceCarry(stage + 1, len(answers), onward)

    def gather(self, pieces: Sequence[Piece]) -> Carry | DeviceCarry:
        """Join rows of several carries into one carry, in their order, where the carries are."""
        first, rows = pieces[0]
        if not isinstance(first, DeviceCarry):
            return join_pieces(pieces)
        if len(pieces) == 1 and rows is None:
            return first
        parts = [
            (carry.tensors, np.arange(carry.rows) if rows is None else rows)
            for carry, rows in pieces
        ]
        count = sum(len(rows) for _, rows in parts)
        return DeviceCarry(first.stage, count, self._joins[first.stage].join(parts))

    def _enter(self, inputs: Carry) -> Tensors:
        """The model's input: what is carried on moves to the device now, the rest with the run."""
        return tuple(
            self._device.put(tensor) if name in self._carries[0] else host_value(tensor)
            for name, tensor in zip(self._sessions[0].inputs, inputs, strict=True)
        )

    def _open_joins(self, stages: Sequence[onnx.ModelProto]) -> dict[int, DeviceJoin]:
        """By stage, from the second on; stages whose carries are of one kind share the graphs."""
        kinds = [
            tuple(value.type.tensor_type.elem_type for value in stage.graph.input)
            for stage in stages
        ]
        joins = {kind: DeviceJoin(kind, self._device) for kind in set(kinds)}
        return {number: joins[kind] for number, kind in enumerate(kinds, start=2)}


def is_out_of_memory(error: Exception) -> bool:
    """Whether a run failed for want of memory, so that fewer rows may succeed.

    ONNX Runtime has no class of its own for it: the message tells.
    """
    message = str(error).lower()
    return isinstance(error, MemoryError) or any(sign in message for sign in OUT_OF_MEMORY)
