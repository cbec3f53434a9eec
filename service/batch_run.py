"""Runs one batch for a lane, so that a row that cannot be computed fails alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from models.cuda_runtime import is_out_of_memory
from models.runtime import Answers, Piece, Runtime


@dataclass(frozen=True)
class Part:
    """Rows that ran together.

    rows : int (b,), their places in the batch
    answers : over the b rows
    carry : what the stage made of them
    """

    rows: np.ndarray
    answers: Answers
    carry: Any


@dataclass(frozen=True)
class BatchRun:
    """What became of a batch.

    parts : rows that ran; one part unless something failed
    failed : place in the batch -> why the row cannot be computed
    out_of_memory : the device had too little memory for the batch
    """

    parts: list[Part]
    failed: dict[int, Exception]
    out_of_memory: bool = False


def run_batch(runtime: Runtime, stage: int, pieces: Sequence[Piece], count: int) -> BatchRun:
    """Run stage `stage` on the `count` rows of `pieces`.

    A batch that raises is halved, again and again, until the rows that raise are alone. A batch
    that is too large for the device is halved once.
    """
    carry, rows = runtime.gather(pieces), np.arange(count)
    try:
        answers, following = runtime.run(stage, carry)
    except Exception as error:  # ONNX Runtime's errors have no common base
        return _halves(runtime, stage, carry, rows, error, halved=False)
    return BatchRun([Part(rows, answers, following)], {})


def _halves(
    runtime: Runtime, stage: int, carry: Any, rows: np.ndarray, error: Exception, halved: bool
) -> BatchRun:
    """Go on with rows that raised `error` together."""
    too_large = is_out_of_memory(error)
    if len(rows) == 1 or (too_large and halved):
        return BatchRun([], dict.fromkeys(rows.tolist(), error), too_large)
    joined = BatchRun([], {}, too_large)
    for half in np.array_split(rows, 2):
        try:
            answers, following = runtime.run(stage, runtime.gather([(carry, half)]))
        except Exception as raised:
            run = _halves(runtime, stage, carry, half, raised, halved=too_large)
        else:
            run = BatchRun([Part(half, answers, following)], {})
        joined = BatchRun(
            joined.parts + run.parts,
            joined.failed | run.failed,
            joined.out_of_memory or run.out_of_memory,
        )
    return joined
