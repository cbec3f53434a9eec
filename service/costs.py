"""The cost model: what one run of a stage takes, by its rows and their shape."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

Shape = tuple[tuple[int, ...], ...]
"""Of one row: its shape in every input of the model, such as ((tokens,), (tokens,))."""

GOOD_ENOUGH = 1.03  # a batch is full when a larger one is at most this much cheaper per row
WORTHWHILE = 1.5  # idle lanes share rows while a row costs at most this much of the least


class CostModel:
    """Times of stages, interpolated between measured points.

    A row counts as so many rows of the measured shape as it has elements of it (those of the input
    that grew most): the layers of an encoder take time in proportion to rows times tokens, to
    within what padding costs anyway.

    Parameters
    ----------
    batch_rows : the measured batches, ascending, from 1
    milliseconds : [stage][batch], of one run, dispatch included
    max_batch_rows : no batch holds more rows
    base : the shape that was measured
    """

    def __init__(
        self,
        batch_rows: Sequence[int],
        milliseconds: Sequence[Sequence[float]],
        max_batch_rows: int = 128,
        base: Shape = (),
    ) -> None:
        self.stages = len(milliseconds)
        self.max_batch_rows = max_batch_rows
        self._rows = np.asarray(batch_rows, float)
        # a longer run that was measured as the shorter one is noise
        self._times = np.maximum.accumulate(np.asarray(milliseconds, float), axis=1)
        self.base = base
        self._tables: dict[Shape, _Table] = {}

    def milliseconds(self, stage: int, shape: Shape, rows: int) -> float:
        """What a run of `rows` rows (1 to `max_batch_rows`) takes in stage 1..S."""
        return self._table(shape).times[stage - 1][rows]

    def full_batch(self, shape: Shape) -> int:
        """Rows of a full batch: the fewest at which a row costs at most 1.03 of the least.

        The same for all stages, by their sum: what one stage has run is then a batch of the next,
        and noise in the measurements evens out.
        """
        return self._table(shape).full

    def worthwhile_batch(self, shape: Shape) -> int:
        """The fewest rows at which a row costs at most 1.5 of the least."""
        return self._table(shape).worthwhile

    def batch_time(self, stage: int, shape: Shape) -> float:
        """What a full batch takes."""
        return self.milliseconds(stage, shape, self.full_batch(shape))

    def limit(self, rows: int) -> None:
        """No batch holds more than `rows` rows from now on."""
        self.max_batch_rows = max(1, min(rows, self.max_batch_rows))
        self._tables.clear()

    def row_milliseconds(self, stage: int, shape: Shape) -> float:
        """What a row of a full batch takes."""
        return self.batch_time(stage, shape) / self.full_batch(shape)

    def remaining(self, stage: int, shape: Shape) -> float:
        """What a row of full batches takes from stage `stage` to the end: the worst case."""
        return sum(self.row_milliseconds(k, shape) for k in range(stage, self.stages + 1))

    def _table(self, shape: Shape) -> _Table:
        if shape not in self._tables:
            # clients choose shapes: what is kept is bounded
            if len(self._tables) >= 4096:
                self._tables.clear()
            self._tables[shape] = self._interpolated(self._units(shape))
        return self._tables[shape]

    def _units(self, shape: Shape) -> float:
        pairs = zip(shape, self.base, strict=True)
        return max((prod(sizes) / prod(base) for sizes, base in pairs), default=1.0)

    def _interpolated(self, units: float) -> _Table:
        rows = np.arange(1, self.max_batch_rows + 1)
        counts = rows * units
        times = np.array([np.interp(counts, self._rows, measured) for measured in self._times])
        # beyond the largest measured batch a row costs what it does there
        beyond = counts > self._rows[-1]
        times[:, beyond] = self._times[:, -1:] * counts[beyond] / self._rows[-1]
        share = times.sum(axis=0) / rows
        share /= share.min()
        return _Table(
            [[0.0, *stage] for stage in times.tolist()],
            int(rows[share <= GOOD_ENOUGH][0]),
            int(rows[share <= WORTHWHILE][0]),
        )


@dataclass(frozen=True)
class _Table:
    """times : milliseconds, [stage][rows], rows from 0; full, worthwhile : rows of such batches."""

    times: list[list[float]]
    full: int
    worthwhile: int
