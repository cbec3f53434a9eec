"""One case, ready to be loaded: runtimes, measured costs, and an engine per mode."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
from engine_case import Case
from engine_work import Key, Recorder, StageLoad, seconds_per_row, stage_loads

from models.machine import available_cores
from models.runtime import Runtime, StageRuntime
from service.costs import CostModel
from service.engine import Engine
from service.engine_options import EngineOptions
from service.metrics import Metrics
from service.request import Job
from service.scheduler import Mode
from service.warmup import choose_lanes, measure_costs

Device = Literal["cpu", "cuda"]

CAPACITY = 200_000  # nothing is refused: the loads are bounded
NEVER = 1e12  # milliseconds
Costs = Mapping[Key, float]
"""Seconds of the machine that one row takes."""

MODES: tuple[Mode, ...] = ("rebatch", "compact", "monolith")
BARE_BATCHES = (4, 8, 16, 32, 64, 128)
FEWEST_SECONDS = 0.02  # of measuring one stage with one shape


@dataclass(frozen=True)
class Plan:
    """How long things are measured.

    rounds : every variant once each
    stage : seconds per stage, shared by its shapes, several times a round
    warm, load : seconds of a saturating load before it counts, and while it does
    stream : seconds of an open-loop stream
    hard : how many hard rows there are beside a stream of easy ones
    most_rows : of a batch
    pool : rows that requests are made of
    memory : rows over which memory is to be flat, after a tenth of them
    """

    rounds: int = 5
    stage: float = 0.1
    warm: float = 0.7
    load: float = 1.8
    stream: float = 2.2
    most_rows: int = 128
    hard: tuple[int, ...] = (256, 1024)
    pool: int = 1024
    memory: int = 200_000


QUICK = Plan(2, 0.03, 0.1, 0.25, 0.3, 32, (64,), 192, 2_000)


@dataclass(frozen=True)
class Stand:
    """What is measured.

    staged, whole : the runtimes with all exits, and with exits off
    costs : what the staged engines go by
    engines : by mode
    loads : of every stage and shape, in the scheduler's full batches
    whole_loads : the same, with exits off
    bare_loads : of the unsplit model by shape, in the batches that are best for it
    """

    case: Case
    lanes: int
    threads: int
    staged: Recorder
    whole: Recorder
    costs: CostModel
    engines: dict[Mode, Engine]
    loads: list[StageLoad]
    whole_loads: list[StageLoad]
    bare_loads: list[StageLoad]

    def recorder(self, mode: Mode) -> Recorder:
        """The runtime below the engine of this mode."""
        return self.whole if mode == "monolith" else self.staged

    def thresholds(self, mode: Mode) -> np.ndarray:
        """Float32 (S,): of the case; of none with exits off."""
        return np.array([-np.inf], np.float32) if mode == "monolith" else self.case.thresholds

    def jobs(self, mode: Mode, rows: int, wanted: np.ndarray | None = None) -> list[Job]:
        """Requests of `rows` rows each."""
        return [
            Job(groups, self.thresholds(mode)) for groups in self.case.pool.requests(rows, wanted)
        ]

    def hard_jobs(self, rows: int) -> list[Job]:
        """Requests whose rows go to the end."""
        stages = len(self.staged.exits)
        never = np.array([*[np.inf] * (stages - 1), -np.inf], np.float32)
        return [Job(groups, never) for groups in self.case.pool.requests(rows)]

    def clients(self, rows: int) -> int:
        """So many that a full batch always waits at the entrance, however many rows are parked."""
        full = max(load.rows for load in self.loads)
        parked = full * len(self.loads) // 2
        return max(2, -(-(8 * self.lanes * full + 2 * parked) // rows))

    def full_batches(self) -> str:
        """Rows of full batches of the most frequent shape, by stage."""
        most = max(load.share for load in self.loads)
        rows = {load.key[0]: load.rows for load in self.loads if load.share == most}
        return ", ".join(map(str, rows.values()))

    def close(self) -> None:
        """End the lanes."""
        for engine in self.engines.values():
            engine.close()


def open_stand(
    case: Case, plan: Plan, device: Device = "cpu", lanes: int | Literal["auto"] = "auto"
) -> Stand:
    """Open a case: all modes on the same lanes and threads."""
    if device == "cpu":
        opened = partial(open_runtime, case, device)
        count, runtime = choose_lanes(opened, case.probe, lanes, 0, plan.most_rows)
    else:
        count, runtime = 1 if lanes == "auto" else lanes, open_runtime(case, device, 1)
    threads = max(1, available_cores() // count) if device == "cpu" else 1
    staged = Recorder(runtime)
    whole = Recorder(open_runtime(case, device, threads, (runtime.exits[-1],)))
    costs = measure_costs(staged.bare, case.probe, plan.most_rows)
    whole_costs = measure_costs(whole.bare, case.probe, plan.most_rows)
    engines = {
        mode: open_engine(
            case,
            whole if mode == "monolith" else staged,
            whole_costs if mode == "monolith" else costs,
            EngineOptions(count, CAPACITY, NEVER, mode),
        )
        for mode in MODES
    }
    return Stand(
        case,
        count,
        threads,
        staged,
        whole,
        costs,
        engines,
        _loads(case, staged.bare, costs),
        _loads(case, whole.bare, whole_costs),
        _bare_loads(case, whole.bare, count, plan),
    )


def open_runtime(
    case: Case, device: Device, threads: int, exits: Sequence[int] | None = None
) -> Runtime:
    """Open the stages on a device."""
    if device == "cpu":
        return StageRuntime(case.model, case.carries, threads, exits)
    from models.cuda_runtime import CudaRuntime

    return CudaRuntime(case.model, case.carries, exits, provider=device)


def open_engine(case: Case, runtime: Runtime, costs: CostModel, options: EngineOptions) -> Engine:
    """An engine, with metrics as in the service."""
    return Engine(runtime, costs, Metrics().of("bench"), case.probe, case.labels, options)


def measure(runtime: Runtime, loads: Sequence[StageLoad], lanes: int, seconds: float) -> Costs:
    """The loads alone, on all lanes at the same time.

    seconds : for all shapes of one stage together
    """
    return {
        load.key: seconds_per_row(runtime, load, lanes, max(FEWEST_SECONDS, load.share * seconds))
        for load in loads
    }


def mean_work(case: Case, costs: Costs, loads: Sequence[StageLoad]) -> float:
    """Seconds that a row of the pool takes on average, by the stages that it runs."""
    stages = max(load.key[0] for load in loads)
    chains = [[load.key for load in loads[k : k + stages]] for k in range(0, len(loads), stages)]
    total = 0.0
    for group, chain in zip(case.pool.groups, chains, strict=True):
        reached = case.exits[group.rows] if stages > 1 else np.ones(len(group.rows), int)
        times = np.cumsum([costs[key] for key in chain])
        total += times[reached - 1].sum()
    return total / case.pool.rows


def _loads(case: Case, runtime: Runtime, costs: CostModel) -> list[StageLoad]:
    loads = []
    for group in case.pool.groups:
        shape = tuple(tensor.shape[1:] for tensor in group.tensors)
        sizes = [costs.full_batch(shape)] * costs.stages
        share = len(group.rows) / case.pool.rows
        loads += stage_loads(runtime, group.tensors, sizes, share)
    return loads


def _bare_loads(case: Case, runtime: Runtime, lanes: int, plan: Plan) -> list[StageLoad]:
    best = []
    for group in case.pool.groups:
        share = len(group.rows) / case.pool.rows
        sizes = [rows for rows in BARE_BATCHES if rows <= plan.most_rows]
        loads = [stage_loads(runtime, group.tensors, [rows], share)[0] for rows in sizes]
        times = [seconds_per_row(runtime, load, lanes, plan.stage) for load in loads]
        best.append(loads[int(np.argmin(times))])
    return best
