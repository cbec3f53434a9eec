"""Does the simulator tell what the engine does? Both serve the same requests on this machine.

    python benchmarks/simulator.py BUNDLE [--lanes 2] [--seconds 20] [--rows-per-request 1]

Open loop: Poisson arrivals at 50, 70 and 90 % of what `monolith` can do, into the real engine, in
`rebatch` and in `monolith`; then the simulator, with the costs that the service measures at
warm-up, and with the times at which the requests were really sent. Where rows leave is drawn from
the bundle's exit mix and forced by thresholds, one exit per request: the rows are made up.
"as run" is the simulator with the stage times that this very run had: what is left of a difference
is not the stages'.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from models.bundle import Bundle, read_bundle
from models.encoding import Group, blank_rows
from models.errors import Overloaded
from models.machine import machine_name
from models.runtime import StageRuntime
from service.costs import CostModel
from service.engine import Engine
from service.engine_options import EngineOptions
from service.metrics import Departure, Metrics, StageRun
from service.request import Job
from service.scheduler import Mode
from service.simulated_load import Arrivals, Load
from service.simulated_outcome import Percentiles, Runs
from service.simulator import simulate
from service.warmup import DISPATCH_MS, measure_costs

SHARES = (0.5, 0.7, 0.9)  # of monolith's capacity
WARM_UP_SECONDS = 1.0
MODES: tuple[Mode, ...] = ("rebatch", "monolith")


class Recorder(Metrics):
    """Keeps every run and every latency beside the metrics."""

    def __init__(self) -> None:
        super().__init__()
        self.runs: list[StageRun] = []
        self.departures: list[Departure] = []

    def ran(self, run: StageRun) -> None:
        """Keep it."""
        self.runs.append(run)
        super().ran(run)

    def departed(self, departure: Departure) -> None:
        """Keep it."""
        self.departures.append(departure)
        super().departed(departure)


@dataclass(frozen=True)
class Served:
    """What one of the two did.

    latency : float (m,), milliseconds of the rows; NaN, or left out, for those that were refused
    """

    latency: np.ndarray
    refused: float
    rows_per_second: float
    runs: Runs


class Site:
    """One mode's runtime, measured costs and engine."""

    def __init__(self, bundle: Bundle, mode: Mode, lanes: int) -> None:
        manifest = bundle.manifest
        exits = (manifest.depth,) if mode == "monolith" else None
        self.mode = mode
        self.lanes = lanes
        self.probe = blank_rows(manifest.inputs)
        self.labels = len(manifest.labels)
        self.runtime = StageRuntime(bundle.model, manifest.carries, 1, exits)
        self.costs = measure_costs(self.runtime, self.probe)

    @property
    def capacity(self) -> float:
        """Rows per second of full batches through all stages."""
        return 1000 * self.lanes / self.costs.remaining(1, self.costs.base)

    def serve(self, arrivals: Arrivals) -> tuple[Served, Arrivals]:
        """By the real engine; also the arrivals as they really were."""
        metrics = Recorder()
        options = EngineOptions(lanes=self.lanes, mode=self.mode)
        engine = Engine(self.runtime, self.costs, metrics, self.probe, self.labels, options)
        try:
            sent, span = asyncio.run(self._send(engine, arrivals))
        finally:
            engine.close()
        stage_of = {number: stage for stage, number in enumerate(self.runtime.exits, start=1)}
        runs = Runs(
            np.array([stage_of[run.exit] for run in metrics.runs]),
            np.array([run.rows for run in metrics.runs]),
            np.array([run.full for run in metrics.runs]),
            np.array([run.milliseconds for run in metrics.runs]),
        )
        latency = np.concatenate([departure.latency for departure in metrics.departures])
        refused = 1 - len(latency) / arrivals.rows
        served = Served(latency, refused, 1000 * len(latency) / span, runs)
        return served, replace(arrivals, times=sent)

    async def _send(self, engine: Engine, arrivals: Arrivals) -> tuple[np.ndarray, float]:
        """When each request was really sent, and milliseconds to the last answer."""
        stages = np.arange(1, self.costs.stages + 1)
        start = engine.clock()
        sent = np.zeros(len(arrivals.times))

        async def ask(request: int) -> None:
            size = int(arrivals.sizes[request])
            tensors = tuple(np.repeat(tensor, size, axis=0) for tensor in self.probe)
            exit_ = arrivals.exits[arrivals.starts[request]]
            thresholds = np.where(stages >= exit_, -np.inf, np.inf).astype(np.float32)
            job = Job([Group(np.arange(size), tensors)], thresholds)
            sent[request] = engine.clock() - start
            with suppress(Overloaded):
                await engine.run(job)

        waiting = []
        for request, time in enumerate(arrivals.times.tolist()):
            ahead = time - (engine.clock() - start)
            await asyncio.sleep(max(0.0, ahead / 1000))
            waiting.append(asyncio.create_task(ask(request)))
        await asyncio.gather(*waiting)
        return sent, engine.clock() - start - sent[0]

    def foretell(self, arrivals: Arrivals, costs: CostModel) -> Served:
        """By the simulator."""
        outcome = simulate(arrivals, costs, self.lanes, self.mode)
        share, rate = outcome.refused_share, outcome.rows_per_second
        return Served(outcome.latency, share, rate, outcome.runs)


def one_exit_per_request(arrivals: Arrivals) -> Arrivals:
    """All rows of a request leave where its first one does."""
    return replace(arrivals, exits=np.repeat(arrivals.exits[arrivals.starts], arrivals.sizes))


def beginning(arrivals: Arrivals, seconds: float) -> Arrivals:
    """The requests of the first seconds, or the first one."""
    requests = max(1, int((arrivals.times < 1000 * seconds).sum()))
    sizes = arrivals.sizes[:requests]
    return Arrivals(arrivals.times[:requests], sizes, arrivals.exits[: sizes.sum()], 1000 * seconds)


def line(who: str, served: Served, stages: Sequence[int]) -> str:
    found = Percentiles.of(served.latency)
    fill = " ".join(f"{served.runs.fill(stage):4.0%}" for stage in stages)
    return (
        f"{who:<10} {found.p50:8.2f} {found.p95:8.2f} {found.p99:8.2f} "
        f"{served.rows_per_second:8.0f} {served.refused:8.1%}  {fill}"
    )


def surplus(costs: CostModel, runs: Runs) -> float:
    """Measured time of the runs as a share of what the cost model says, without dispatching."""
    told = [
        costs.milliseconds(stage, costs.base, rows) - DISPATCH_MS
        for stage, rows in zip(runs.stage.tolist(), runs.rows.tolist(), strict=True)
    ]
    return float(runs.milliseconds.sum() / sum(told))


def scaled(costs: CostModel, factor: float) -> CostModel:
    """The same curves if stages took `factor` times as long; dispatching takes what it did."""
    rows = range(1, costs.max_batch_rows + 1)
    curves = [
        [factor * (costs.milliseconds(k, costs.base, n) - DISPATCH_MS) + DISPATCH_MS for n in rows]
        for k in range(1, costs.stages + 1)
    ]
    return CostModel(rows, curves, costs.max_batch_rows, costs.base)


def compare(site: Site, arrivals: Arrivals, title: str) -> None:
    """Both serve the requests; prints what each did."""
    site.serve(beginning(arrivals, WARM_UP_SECONDS))
    real, sent = site.serve(arrivals)
    factor = surplus(site.costs, real.runs)
    late = np.percentile(sent.times - arrivals.times, 99)
    print(
        f"{title}: requests sent up to {late:.1f} ms late (p99); stages took {factor:.2f} of what "
        "warm-up measured"
    )
    stages = range(1, site.costs.stages + 1)
    print(line("engine", real, stages))
    print(line("simulator", site.foretell(sent, site.costs), stages))
    print(line("as run", site.foretell(sent, scaled(site.costs, factor)), stages), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--lanes", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--rows-per-request", type=int, default=1)
    parser.add_argument("--exit-mix", help="shares, such as .6,.2,.2; by default the bundle's")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    bundle = read_bundle(given.bundle)
    mix = tuple(exit_.share_leaving for exit_ in bundle.manifest.test.exits)
    if given.exit_mix:
        mix = tuple(map(float, given.exit_mix.split(",")))
    sites = [Site(bundle, mode, given.lanes) for mode in MODES]
    capacity = sites[-1].capacity
    print(
        f"{bundle.manifest.name}; {machine_name()}; {given.lanes} lanes; monolith's capacity "
        f"{capacity:.0f} rows/s; {given.rows_per_request} rows per request; {given.seconds:g} s; "
        f"exit mix {', '.join(f'{share:.3f}' for share in mix)}"
    )
    print("             p50 ms   p95 ms   p99 ms   rows/s  refused  fill by stage")
    for share in SHARES:
        load = Load(share * capacity, mix, (given.rows_per_request,))
        arrivals = one_exit_per_request(load.arrivals(given.seconds, given.seed))
        for site in sites:
            here = arrivals if site.mode != "monolith" else arrivals.without_exits()
            compare(site, here, f"{site.mode} at {share:.0%}")


if __name__ == "__main__":
    main()
