"""Costs of stages, from a bundle's manifest or from a file that the user writes."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field, ValidationError, model_validator

from models.errors import InvalidInput
from models.measurements import Costs
from models.record import Record
from service.costs import CostModel
from service.warmup import DISPATCH_MS

Milliseconds = Annotated[float, Field(gt=0)]
Rows = Annotated[int, Field(ge=1)]


class StageCosts(Record):
    """Measured or published times of stages, by rows per batch; the content of a costs file."""

    machine: str
    """What the times are of, in words."""
    source: str = ""
    """Where they come from: an address, a command."""
    assumed: str = ""
    """What was not measured or published."""
    batch_rows: Annotated[tuple[Rows, ...], Field(min_length=1)]
    """Ascending, from 1."""
    stage_milliseconds: Annotated[tuple[tuple[Milliseconds, ...], ...], Field(min_length=1)]
    """[stage][batch]: of one run of the stage with its head."""
    whole_milliseconds: tuple[Milliseconds, ...] = ()
    """[batch]: of the model in one piece, without exits; left out: the sum of the stages."""
    dispatch_milliseconds: Annotated[float, Field(ge=0)] = DISPATCH_MS
    """What a batch takes beside its stage, in every stage."""

    @model_validator(mode="after")
    def _is_consistent(self) -> StageCosts:
        if self.batch_rows[0] != 1 or any(b <= a for a, b in pairwise(self.batch_rows)):
            raise ValueError(f"batch_rows is {list(self.batch_rows)}, expected 1 and then more")
        wanted = len(self.batch_rows)
        curves = {f"stage {k}": t for k, t in enumerate(self.stage_milliseconds, start=1)}
        for name, times in curves.items():
            if len(times) != wanted:
                raise ValueError(f"{name} has {len(times)} times, expected {wanted}, one per batch")
        if self.whole_milliseconds and len(self.whole_milliseconds) != wanted:
            raise ValueError(
                f"whole_milliseconds has {len(self.whole_milliseconds)} times, expected {wanted}, "
                "one per batch"
            )
        return self

    @property
    def stages(self) -> int:
        """Number of stages S."""
        return len(self.stage_milliseconds)

    def of_stages(self) -> CostModel:
        """For the modes with exits."""
        return self._model(self.stage_milliseconds)

    def of_whole(self) -> CostModel:
        """For the model in one piece."""
        by_batch = zip(*self.stage_milliseconds, strict=True)
        return self._model([self.whole_milliseconds or list(map(sum, by_batch))])

    def _model(self, curves: Sequence[Sequence[float]]) -> CostModel:
        dispatched = np.asarray(curves, float) + self.dispatch_milliseconds
        return CostModel(self.batch_rows, dispatched.tolist())


def recorded_costs(costs: Costs) -> StageCosts:
    """Those that calibration measured, of one lane that has the machine to itself."""
    return StageCosts(
        machine=costs.machine,
        source="measured by calibration",
        batch_rows=costs.batch_rows,
        stage_milliseconds=costs.stage_milliseconds,
        whole_milliseconds=costs.whole_milliseconds,
    )


def read_costs(path: Path) -> StageCosts:
    """Read a costs file: the fields of `StageCosts` as JSON.

    Raises
    ------
    InvalidInput
        When there is no such file, or it holds something else.
    """
    try:
        return StageCosts.model_validate_json(path.read_bytes())
    except OSError as error:
        raise InvalidInput(
            f"costs: cannot read {path}: {error.strerror}; expected a JSON file with machine, "
            "batch_rows and stage_milliseconds"
        ) from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        found = first["msg"].removeprefix("Value error, ")
        raise InvalidInput(
            f"costs: {path.name}{': ' + where if where else ''}: {found}; expected JSON with "
            "machine, batch_rows (1 and then more) and stage_milliseconds [stage][batch]"
        ) from None
