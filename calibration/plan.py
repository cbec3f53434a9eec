"""Which exits pay: what an exit costs every row that reaches it, against what it saves.

An exit costs its head, the gathering of the rows that stay, and what the runtime does slower in two
pieces than in one; it saves the way to the exit at which its rows would leave without it. Both are
milliseconds per row of the whole traffic, by the stage times measured on one machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from calibration.costs import BATCH_ROWS, ROUNDS, measure_costs
from models.encoding import MASK, blank_rows
from models.measurements import Costs, ExitProfile
from models.policy import Policy

if TYPE_CHECKING:
    from rich.progress import Progress

    from models.bundle import Bundle
    from models.preprocessing import TensorSpec
    from models.runtime import Carry


@dataclass(frozen=True)
class Traffic:
    """Where rows leave under a policy.

    leaving : float (K,), share of all rows that leave at each exit
    leaves_next : float (K, K), share of all rows that leave at exit i and, were it off, at exit j
    """

    leaving: np.ndarray
    leaves_next: np.ndarray

    @property
    def reaching(self) -> np.ndarray:
        """Share of all rows that come to each exit: float (K,)."""
        return np.cumsum(self.leaving[::-1])[::-1]


@dataclass(frozen=True)
class Payoff:
    """What one early exit costs and saves.

    exit : its number
    cost, saving : milliseconds per row of the whole traffic
    """

    exit: int
    cost: float
    saving: float

    @property
    def pays(self) -> bool:
        """Whether it saves more than it costs."""
        return self.saving > self.cost


@dataclass(frozen=True)
class BatchPlan:
    """The policy and its exits where every stage runs batches of the same size.

    rows : per batch
    exits : one per early exit
    policy, whole : milliseconds per row, under the policy and in the model without exits
    """

    rows: int
    exits: tuple[Payoff, ...]
    policy: float
    whole: float

    @property
    def ratio(self) -> float:
        """Time of a row under the policy as a share of the model's without exits."""
        return self.policy / self.whole


def traffic_of(policy: Policy, scores: Sequence[np.ndarray]) -> Traffic:
    """Where rows leave, by their scores at all exits: K x float (n,)."""
    depth = policy.depth
    exits = policy.route(scores)
    leaving = np.bincount(exits, minlength=depth + 1)[1:] / len(exits)
    leaves_next = np.zeros((depth, depth))
    for number in range(1, depth):
        off = replace(
            policy,
            thresholds=tuple(
                None if k == number else t for k, t in enumerate(policy.thresholds, start=1)
            ),
        )
        then = off.route(scores)[exits == number]
        leaves_next[number - 1] = np.bincount(then, minlength=depth + 1)[1:] / len(exits)
    return Traffic(leaving, leaves_next)


def recorded_traffic(exits: Sequence[ExitProfile]) -> Traffic:
    """Where rows left, as a manifest records it."""
    return Traffic(
        np.array([exit_.share_leaving for exit_ in exits]),
        np.array([exit_.leaves_next for exit_ in exits]),
    )


def payoffs(traffic: Traffic, costs: Costs, batch: int = -1) -> list[Payoff]:
    """The payoff of each early exit.

    Saving minus cost is what the mean time of a row grows by when the exit is taken out of the
    model (`calibration.costs.without_exit`).

    Parameters
    ----------
    batch : index into `costs.batch_rows`
    """
    rows = costs.batch_rows[batch]
    until = np.cumsum([stage[batch] for stage in costs.stage_milliseconds]) / rows  # (K,)
    return [
        Payoff(
            exit=number,
            cost=float(traffic.reaching[number - 1] * milliseconds[batch] / rows),
            saving=float(traffic.leaves_next[number - 1] @ (until - until[number - 1])),
        )
        for number, milliseconds in enumerate(costs.exit_milliseconds, start=1)
    ]


def mean_milliseconds(traffic: Traffic, costs: Costs, batch: int = -1) -> float:
    """Stage time of a row under the policy, in milliseconds; batches of all stages are full."""
    until = np.cumsum([stage[batch] for stage in costs.stage_milliseconds])
    return float(traffic.leaving @ until / costs.batch_rows[batch])


def batch_plans(traffic: Traffic, costs: Costs) -> tuple[BatchPlan, ...]:
    """The policy at every measured batch, the smallest first."""
    return tuple(
        BatchPlan(
            rows=rows,
            exits=tuple(payoffs(traffic, costs, batch)),
            policy=mean_milliseconds(traffic, costs, batch),
            whole=costs.whole_milliseconds[batch] / rows,
        )
        for batch, rows in enumerate(costs.batch_rows)
    )


def is_truncated(costs: Costs) -> bool:
    """Whether the bundle leaves out layers of the full model."""
    return any(milliseconds > 0 for milliseconds in costs.beyond_milliseconds)


def remeasured(bundle: Bundle, progress: Progress, rounds: int = ROUNDS) -> Costs:
    """The costs of a bundle on this machine.

    Rows are made up: times depend on shapes, hardly on values. Of a truncated bundle the layers
    behind the last exit are not there to be run, see `rescaled`.
    """
    manifest = bundle.manifest
    rows = stand_in_rows(manifest.inputs, max(BATCH_ROWS))
    costs = measure_costs(bundle.model, manifest.carries, rows, progress, rounds)
    return rescaled(costs, manifest.costs) if is_truncated(manifest.costs) else costs


def rescaled(measured: Costs, recorded: Costs) -> Costs:
    """Measured costs of the stages that are there, and an estimate of what a bundle leaves out.

    The recorded times behind the last exit, and of the whole model in one piece, change by the
    same factor as the stages together.

    Parameters
    ----------
    measured : of the bundle's own stages
    recorded : of the same stages when the bundle was calibrated, with what lies behind them
    """
    recorded_stages = _at(measured.batch_rows, recorded, recorded.stage_milliseconds).sum(axis=0)
    factor = np.sum(measured.stage_milliseconds, axis=0) / recorded_stages  # (batches,)
    left_out = (recorded.beyond_milliseconds, recorded.whole_milliseconds)
    beyond, whole = factor * _at(measured.batch_rows, recorded, left_out)
    return measured.model_copy(
        update={
            "beyond_milliseconds": tuple(beyond.tolist()),
            "whole_milliseconds": tuple(whole.tolist()),
        }
    )


def stand_in_rows(inputs: Sequence[TensorSpec], rows: int) -> Carry:
    """Inputs to time a model on: noise where it reads floats, else what `blank_rows` gives."""
    rng = np.random.default_rng(0)
    return tuple(
        rng.normal(size=tensor.shape).astype(tensor.dtype)
        if tensor.dtype.kind == "f" and spec.name != MASK
        else tensor
        for spec, tensor in zip(inputs, blank_rows(inputs, rows), strict=True)
    )


def _at(batches: Sequence[int], costs: Costs, curves: Sequence[Sequence[float]]) -> np.ndarray:
    """Curves over `costs.batch_rows`, read at other batches: (curves, batches)."""
    return np.stack([np.interp(batches, costs.batch_rows, curve) for curve in curves])
