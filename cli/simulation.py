"""A simulation as the command line asks for it: the policy beside the model without exits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf, nan

from cli.stage_costs import StageCosts
from models.errors import InvalidInput
from service.costs import CostModel
from service.scheduler import Mode
from service.simulated_load import Arrivals, Load
from service.simulated_outcome import Outcome
from service.simulator import Bounds, simulate
from service.sizing import Sizing, devices_needed, is_met, offered_lanes

MONOLITH: Mode = "monolith"

Bar = Callable[[str, int, int], Callable[[int], None]]
"""Shows one simulation's progress: mode, devices, rows -> to be told how many have arrived."""


@dataclass(frozen=True)
class Question:
    """What is asked.

    name : of the model
    exits : numbers of the exits behind the stages
    mode : the other side is always the model without exits
    devices : None: as many as the objective needs
    slo : the p99 of the requests is at most this, in milliseconds; infinite without an objective
    """

    name: str
    costs: StageCosts
    load: Load
    exits: tuple[int, ...]
    mode: Mode
    devices: int | None
    slo: float
    bounds: Bounds
    seconds: float
    seed: int

    def __post_init__(self) -> None:
        if len(self.load.mix) != self.costs.stages:
            raise InvalidInput(
                f"exit mix: found {len(self.load.mix)} shares, expected {self.costs.stages}, one "
                "per stage of the costs; give --costs and --exit-mix of the same exits"
            )
        if self.devices is None and self.slo == inf:
            raise InvalidInput(
                "found neither --devices nor --slo: give --devices N to see what they do, or "
                "--slo MS to see how many are needed"
            )


@dataclass(frozen=True)
class Side:
    """One mode's answer.

    exits : numbers of the exits behind the stages
    outcome : None where no number of devices meets the objective
    least : p99 of requests that never wait, in milliseconds; NaN where it was not asked for
    offered : devices that the load would keep busy in full batches
    met : the objective
    """

    mode: Mode
    exits: tuple[int, ...]
    outcome: Outcome | None
    least: float
    offered: float
    met: bool

    @property
    def load(self) -> float:
        """Of the devices' time, the share that the work takes in full batches."""
        return self.offered / self.outcome.lanes if self.outcome else nan


def answer(question: Question, bar: Bar) -> list[Side]:
    """Simulate the mode that is asked for, and the model without exits beside it."""
    arrivals = question.load.arrivals(question.seconds, question.seed)
    costs = question.costs
    sides = []
    if question.mode != MONOLITH:
        sides.append(_side(question, question.mode, costs.of_stages(), arrivals, bar))
    whole = arrivals.without_exits()
    return [*sides, _side(question, MONOLITH, costs.of_whole(), whole, bar)]


def _side(
    question: Question,
    mode: Mode,
    costs: CostModel,
    arrivals: Arrivals,
    bar: Bar,
) -> Side:
    bounds = question.bounds

    def watch(lanes: int) -> Callable[[int], None]:
        return bar(mode, lanes, arrivals.rows)

    if question.devices is None:
        sizing = devices_needed(arrivals, costs, question.slo, mode, bounds, watch)
    else:
        lanes = question.devices
        sizing = Sizing(simulate(arrivals, costs, lanes, mode, bounds, watch(lanes)), nan)
    return Side(
        mode=mode,
        exits=question.exits if mode != MONOLITH else question.exits[-1:],
        outcome=sizing.outcome,
        least=sizing.least,
        offered=offered_lanes(arrivals, costs),
        met=sizing.outcome is not None and is_met(sizing.outcome, question.slo),
    )
