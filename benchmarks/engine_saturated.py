"""Saturated: rows per second of every mode, against what the machine could do at best."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from engine_load import saturate, settle
from engine_setup import Costs, Plan, Stand, mean_work, measure
from engine_table import Table, Target, at_least, spread
from engine_work import Run, Window, fill_of, work_in

from service.request import Job
from service.scheduler import Mode

REQUEST_ROWS = 32
EXPLAINED = (
    "Ideal are the stages alone, in the scheduler's full batches, as many threads running the same "
    "stage at the same time as there are lanes; a bare loop does the same with the unsplit model "
    "in the batches that are best for it. Rows per second are counted by work: a run of a stage "
    "counts for what its rows take in the ideal, over what a row takes there on average, so that "
    "rows that are half done when the window ends count for what was done. Fill is rows of batches "
    "over those of full ones."
)
VARIANTS: tuple[tuple[Mode, int], ...] = (
    ("rebatch", REQUEST_ROWS),
    ("compact", REQUEST_ROWS),
    ("monolith", REQUEST_ROWS),
    ("rebatch", 8),
    ("monolith", 8),
    ("rebatch", 1),
    ("monolith", 1),
)
"""Mode, and rows of a request."""


@dataclass(frozen=True)
class Saturated:
    """One window of one variant.

    share : of the best that its own stages could do
    rate : rows per second
    best : rows per second
    bare : of the best that the unsplit model could do in its best batches; with exits off only
    fill : rows of all batches over those of full ones
    """

    share: float
    rate: float
    best: float
    bare: float
    fill: float


@dataclass(frozen=True)
class Alone:
    """What rows take of the machine where nothing else runs, see `engine_setup.measure`.

    staged, whole : in the scheduler's full batches
    bare : the unsplit model in its best batches
    """

    staged: Costs
    whole: Costs
    bare: Costs


class Saturation:
    """All rounds of a case; `rounds[k][variant]`."""

    def __init__(self, stand: Stand, plan: Plan) -> None:
        self.rounds: list[dict[tuple[Mode, int], Saturated]] = []
        self.alone: list[Alone] = []
        self._stand = stand
        self._plan = plan
        self._jobs: dict[tuple[Mode, int], list[Job]] = {
            variant: stand.jobs(*variant) for variant in VARIANTS
        }

    def measure(self) -> None:
        """Run all rounds; the stages alone are measured all along, as machines drift."""
        for number in range(self._plan.rounds):
            shift, seen, windows = number % len(VARIANTS), [], {}
            for place, variant in enumerate((*VARIANTS[shift:], *VARIANTS[:shift])):
                if place % 2 == 0:
                    seen.append(measure_alone(self._stand, self._plan))
                windows[variant] = self._window(*variant)
            self.alone.append(mean_alone(seen))
            self.rounds.append(
                {
                    (mode, rows): figures(self._stand, mode, *window, self.alone[-1])
                    for (mode, rows), window in windows.items()
                }
            )

    def values(self, mode: Mode, rows: int, field: str) -> np.ndarray:
        """A figure of all rounds, float (rounds,)."""
        return np.array([getattr(done[mode, rows], field) for done in self.rounds])

    def capacity(self) -> float:
        """Single-row requests per second that the engine with exits off can answer."""
        return float(np.median(self.values("monolith", 1, "rate")))

    def stage_one(self) -> float:
        """Milliseconds of a full batch of stage 1 of the most frequent shape, all lanes busy."""
        load = max((x for x in self._stand.loads if x.key[0] == 1), key=lambda x: x.share)
        seconds = np.median([alone.staged[load.key] for alone in self.alone])
        return float(seconds * load.rows * self._stand.lanes * 1000)

    def targets(self) -> list[Target]:
        """Against what was asked for."""
        rows = REQUEST_ROWS
        speedup = self.values("rebatch", rows, "rate") / self.values("monolith", rows, "rate")
        return [
            at_least("rebatch, of ideal", self.values("rebatch", rows, "share"), 0.95),
            at_least("exits off, of a bare loop", self.values("monolith", rows, "bare"), 0.97),
            at_least("rebatch over monolith, rows per second", speedup, 1.0),
        ]

    def table(self) -> Table:
        """A line for every variant."""
        case, stand = self._stand.case, self._stand
        lines = []
        for mode, rows in VARIANTS:
            gain = self.values(mode, rows, "rate") / self.values("monolith", rows, "rate")
            lines.append(
                (
                    mode,
                    str(rows),
                    str(stand.clients(rows)),
                    spread(self.values(mode, rows, "rate"), 0),
                    spread(self.values(mode, rows, "best"), 0),
                    spread(self.values(mode, rows, "share")),
                    spread(self.values(mode, rows, "bare")),
                    spread(gain, 2),
                    spread(self.values(mode, rows, "fill"), 2),
                )
            )
        return Table(
            f"{case.name}: saturated",
            f"Lanes: {stand.lanes}, with {stand.threads} threads each; mean exit {case.depth:.2f} "
            f"of {len(stand.staged.exits)}; full batches by stage: {stand.full_batches()}. "
            f"{EXPLAINED}",
            (
                "mode",
                "rows of a request",
                "clients",
                "rows/s",
                "ideal rows/s",
                "of ideal",
                "of a bare loop",
                "over monolith",
                "fill",
            ),
            lines,
        )

    def _window(self, mode: Mode, rows: int) -> tuple[Window, list[Run]]:
        stand, plan = self._stand, self._plan
        recorder = stand.recorder(mode)
        settle(recorder)
        load = saturate(
            stand.engines[mode], self._jobs[mode, rows], stand.clients(rows), plan.warm, plan.load
        )
        return asyncio.run(load), settle(recorder)


def measure_alone(stand: Stand, plan: Plan) -> Alone:
    """The stages alone, and the unsplit model alone."""
    return Alone(
        measure(stand.staged.bare, stand.loads, stand.lanes, plan.stage),
        measure(stand.whole.bare, stand.whole_loads, stand.lanes, 2 * plan.stage),
        measure(stand.whole.bare, stand.bare_loads, stand.lanes, 2 * plan.stage),
    )


def mean_alone(seen: Sequence[Alone]) -> Alone:
    """Of one round."""
    return Alone(
        *(
            {key: float(np.mean([part[key] for part in parts])) for key in parts[0]}
            for parts in (
                [alone.staged for alone in seen],
                [alone.whole for alone in seen],
                [alone.bare for alone in seen],
            )
        )
    )


def figures(
    stand: Stand, mode: Mode, window: Window, runs: Sequence[Run], alone: Alone
) -> Saturated:
    """What a window tells, by what was measured alone in its round."""
    exits_off = mode == "monolith"
    loads = stand.whole_loads if exits_off else stand.loads
    own = alone.whole if exits_off else alone.staged
    row = mean_work(stand.case, own, loads)
    share = work_in(window, runs, own) / window.seconds
    bare = work_in(window, runs, alone.bare) / window.seconds if exits_off else float("nan")
    full = {load.key: load.rows for load in loads}
    return Saturated(share, share / row, 1 / row, bare, fill_of(window, runs, full))
