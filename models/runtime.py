"""The stage runtime: one ONNX Runtime session per stage, weights disjoint.

Knows nothing of policies, requests or clocks. Sessions are thread-safe: lanes may share it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from models.graph import STAGE_OUTPUTS, split_stages

if TYPE_CHECKING:
    import onnxruntime

Carry = tuple[np.ndarray, ...]

Piece = tuple[Any, np.ndarray | None]
"""Some rows of a carry: the carry, and their places in it, int (b,); None for all of its rows."""


@dataclass(frozen=True)
class Answers:
    """What one exit says of b rows.

    probabilities : float32 (b, L)
    labels : bool (b, L), the label sets
    score : float32 (b,) in [0, 1]
    """

    probabilities: np.ndarray
    labels: np.ndarray
    score: np.ndarray

    def __len__(self) -> int:
        return len(self.score)

    @classmethod
    def concatenate(cls, parts: Sequence[Answers]) -> Answers:
        """The rows of all parts, in their order."""
        return cls(
            np.concatenate([part.probabilities for part in parts]),
            np.concatenate([part.labels for part in parts]),
            np.concatenate([part.score for part in parts]),
        )

    def take(self, rows: np.ndarray) -> Answers:
        """The answers of some rows, by index or by mask."""
        return Answers(self.probabilities[rows], self.labels[rows], self.score[rows])


def join_pieces(pieces: Sequence[Piece]) -> Carry:
    """Join rows of carries on the host, in one copy; in none where it is one whole carry."""
    if len(pieces) == 1 and pieces[0][1] is None:
        whole: Carry = pieces[0][0]
        return whole
    if len(pieces) == 1:
        (carry, rows), *_ = pieces
        return tuple(tensor.take(rows, axis=0) for tensor in carry)
    counts = [len(carry[0]) if rows is None else len(rows) for carry, rows in pieces]
    bounds = [0, *accumulate(counts)]
    joined = []
    for place, first in enumerate(pieces[0][0]):
        tensor = np.empty((bounds[-1], *first.shape[1:]), first.dtype)
        for (carry, rows), start, stop in zip(pieces, bounds, bounds[1:], strict=False):
            if rows is None:
                tensor[start:stop] = carry[place]
            else:  # "clip" writes into `out` without a buffer; every row is there
                carry[place].take(rows, axis=0, out=tensor[start:stop], mode="clip")
        joined.append(tensor)
    return tuple(joined)


def at_exits(answers: Sequence[Answers], exits: np.ndarray) -> Answers:
    """Each row's answer at its own exit.

    Parameters
    ----------
    answers : K, one per exit, each over the same n rows
    exits : int (n,) in 1..K
    """
    rows = np.arange(len(exits))
    return Answers(
        np.stack([answer.probabilities for answer in answers])[exits - 1, rows],
        np.stack([answer.labels for answer in answers])[exits - 1, rows],
        np.stack([answer.score for answer in answers])[exits - 1, rows],
    )


class Runtime(Protocol):
    """What runs stages for the engine. Carries are its own: on the host, or on a device.

    Into stage 1 goes the model's input, arrays on the host; answers always come to the host.
    """

    @property
    def exits(self) -> tuple[int, ...]:
        """The exit's number behind every stage."""
        ...

    def run(self, stage: int, carry: Any) -> tuple[Answers, Any]:
        """Run stage `stage` (1..S) on all rows of `carry`: their answers, and the next carry."""
        ...

    def gather(self, pieces: Sequence[Piece]) -> Any:
        """Join rows of several carries into one carry, in their order."""
        ...


class StageRuntime:
    """Runs the stages of a multi-head graph, each by a session of its own.

    Asking one session for one head computes every head, so the graph is split when it is loaded.

    Parameters
    ----------
    model : the serialized multi-head graph
    carries : K - 1 groups of tensor names, as recorded in the bundle
    threads : threads of each session; with 1 no pool is made
    exits : numbers of the exits that have a stage of their own, ascending, K the last; the others
        are left out. By default all; `(K,)` is the model in one piece.
    """

    def __init__(
        self,
        model: bytes,
        carries: Sequence[Sequence[str]],
        threads: int = 1,
        exits: Sequence[int] | None = None,
    ) -> None:
        import onnx

        self.exits = tuple(exits or range(1, len(carries) + 2))
        carries = [carries[number - 1] for number in self.exits[:-1]]
        stages = split_stages(onnx.load_model_from_string(model), carries, self.exits)
        self._sessions = [open_session(stage.SerializeToString(), threads) for stage in stages]
        self._inputs = [[value.name for value in s.get_inputs()] for s in self._sessions]
        self._outputs = [[value.name for value in s.get_outputs()] for s in self._sessions]
        self._carries = [tuple(carry) for carry in [*carries, ()]]

    @property
    def input_names(self) -> list[str]:
        """The model's inputs: what the carry into stage 1 holds."""
        return self._inputs[0]

    @property
    def depth(self) -> int:
        """Number of stages S."""
        return len(self._sessions)

    def run(self, stage: int, carry: Carry) -> tuple[Answers, Carry]:
        """Run stage `stage` (1..S) on the rows of `carry`; into stage 1 goes the model's input."""
        feeds = dict(zip(self._inputs[stage - 1], carry, strict=True))
        outputs = self._sessions[stage - 1].run(self._outputs[stage - 1], feeds)
        made = {**feeds, **dict(zip(self._outputs[stage - 1], outputs, strict=True))}
        answers = Answers(*outputs[: len(STAGE_OUTPUTS)])
        return answers, tuple(made[name] for name in self._carries[stage - 1])

    def gather(self, pieces: Sequence[Piece]) -> Carry:
        """Join rows of several carries into one carry, in their order."""
        return join_pieces(pieces)

    def release(self, inputs: Carry) -> None:
        """Give back the memory that larger runs have left behind, by one more run of stage 1.

        An arena keeps what the largest batch has needed (MiniLM at 256 rows: 600 MiB).
        """
        import onnxruntime

        options = onnxruntime.RunOptions()
        options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        feeds = dict(zip(self._inputs[0], inputs, strict=True))
        self._sessions[0].run(self._outputs[0], feeds, options)

    def all_exits(self, inputs: Carry, batch: int = 64) -> list[Answers]:
        """Every exit's answers for all rows: tensors (n, ...) -> K x Answers over n rows."""
        parts: list[list[Answers]] = [[] for _ in range(self.depth)]
        for start in range(0, len(inputs[0]), batch):
            carry = tuple(tensor[start : start + batch] for tensor in inputs)
            for stage in range(1, self.depth + 1):
                answers, carry = self.run(stage, carry)
                parts[stage - 1].append(answers)
        return [Answers.concatenate(exit_parts) for exit_parts in parts]


def open_session(model: bytes, threads: int = 1) -> onnxruntime.InferenceSession:
    """An ONNX Runtime session on the CPU.

    Threads do not spin, as sessions share the cores; memory comes from one arena for all sessions,
    as a stage finds the pages warm that the stage before it has left (chaining the six layers of an
    encoder at batch 8 took 1.06 of the whole model's time with an arena each, 1.01 with one).
    """
    import onnxruntime

    _share_arena()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.use_env_allocators", "1")
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


@cache
def _share_arena() -> None:
    """ONNX Runtime keeps the arenas that sessions may share by process."""
    import onnxruntime as ort

    memory = ort.OrtMemoryInfo(
        "Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT
    )
    ort.create_and_register_allocator(memory, None)
