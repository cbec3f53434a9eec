"""Memory of the runtime's arena."""

from __future__ import annotations

import numpy as np
import psutil

from models.runtime import StageRuntime

ROWS = 4096
MIB = 2**20


def test_what_a_large_batch_has_needed_is_given_back(
    runtime: StageRuntime, rows: np.ndarray
) -> None:
    process = psutil.Process()
    row = (rows[:1],)
    before = runtime.run(1, row)[0]
    runtime.release(row)
    small = process.memory_full_info().uss
    runtime.run(1, (np.repeat(rows[:1], ROWS, axis=0),))
    grown = process.memory_full_info().uss - small
    assert grown > 32 * MIB
    runtime.release(row)
    assert process.memory_full_info().uss - small < grown / 2
    np.testing.assert_array_equal(runtime.run(1, row)[0].probabilities, before.probabilities)
