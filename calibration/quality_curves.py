"""Quality-cost curves: micro-F1 by computed time, for the W path and for the baselines."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from calibration.baselines import Family, policy_family
from calibration.quality import f1_of
from models.measurements import QualityCurve, QualityPoint
from models.policy import Policy
from models.runtime import Answers

W_PATH = "W path"
STATIC = "static"
LEVELS = 20


@dataclass(frozen=True)
class Outcomes:
    """What the answer of each exit to each row is worth, so that a policy costs a few sums.

    hits : int (K, n), labels that are both in the exit's label set and in the true one
    sizes : int (K, n), labels of the two sets, counted twice where they are in both
    agrees : bool (K, n), whether the exit's label set is the full model's
    until : float (K,), computed time of a row that leaves there, as a share of full depth
    """

    hits: np.ndarray
    sizes: np.ndarray
    agrees: np.ndarray
    until: np.ndarray

    @classmethod
    def measured(
        cls,
        answers: Sequence[Answers],
        full: Answers,
        truth: np.ndarray,
        until: Sequence[float] | np.ndarray,
    ) -> Outcomes:
        """Count once what all policies over these exits need.

        Parameters
        ----------
        answers : K, one per exit (or per layer, for `static_curve`), over n rows
        full : the full model's answers to the same rows
        truth : bool (n, L), the true label sets
        until : K, as above
        """
        wanted = truth.sum(axis=1)
        return cls(
            hits=np.stack([(a.labels & truth).sum(axis=1) for a in answers]),
            sizes=np.stack([a.labels.sum(axis=1) + wanted for a in answers]),
            agrees=np.stack([(a.labels == full.labels).all(axis=1) for a in answers]),
            until=np.asarray(until, float),
        )

    def point(self, exits: np.ndarray) -> QualityPoint:
        """Quality and cost when rows leave at `exits`: int (n,) in 1..K."""
        at = (exits - 1, np.arange(len(exits)))
        return QualityPoint(
            time=float(self.until[exits - 1].mean()),
            micro_f1=float(f1_of(self.hits[at].sum(), self.sizes[at].sum())),
            set_agreement=float(self.agrees[at].mean()),
        )


def quality_curve(method: str, routes: Iterable[np.ndarray], outcomes: Outcomes) -> QualityCurve:
    """One point per setting in the order of `routes`, each int (n,) in 1..K; equal points once."""
    points = dict.fromkeys(outcomes.point(exits) for exits in routes)
    return QualityCurve(method=method, points=tuple(points))


def static_curve(layers: Outcomes) -> QualityCurve:
    """Always stop at the same layer: one point per candidate layer, the deepest first."""
    depth, rows = layers.hits.shape
    points = (layers.point(np.full(rows, layer)) for layer in range(depth, 0, -1))
    return QualityCurve(method=STATIC, points=tuple(points))


def curves_of(
    path: Sequence[Policy],
    families: Sequence[Family],
    answers: Sequence[Answers],
    outcomes: Outcomes,
    layers: Outcomes,
) -> tuple[QualityCurve, ...]:
    """The curves of the W path, of every baseline, and of static truncation, in this order.

    Parameters
    ----------
    path : the W path; all rows at the last exit is put before it, where all families begin
    families : baselines, tuned on another split
    answers : K, one per exit, over n rows
    outcomes : of these answers
    layers : of every candidate layer's answers to the same rows
    """
    w_path = policy_family(W_PATH, [Policy.full(len(answers)), *path])
    dynamic = [
        quality_curve(family.method, family.routes(answers), outcomes)
        for family in (w_path, *families)
    ]
    return (*dynamic, static_curve(layers))


def cost_at(curve: QualityCurve, micro_f1: float) -> float | None:
    """Smallest computed time at which a curve has this micro-F1 or more; None if it never does.

    Points only: micro-F1 between two settings is not linear in time, and the settings of patience
    and of static truncation have nothing between them.
    """
    return min((point.time for point in curve.points if point.micro_f1 >= micro_f1), default=None)


def relative_costs(curves: Sequence[QualityCurve]) -> dict[str, float | None]:
    """Cost of the W path at equal micro-F1, divided by each baseline's: mean over quality levels.

    The geometric mean over LEVELS levels, from the quality of the most eager W policy up to the
    highest that both reach; below 1 the W path is the cheaper one. None where a baseline does not
    come up to the most eager W policy.

    Parameters
    ----------
    curves : as `curves_of` gives them: the W path, then the baselines

    Notes
    -----
    Single points of a curve profit from the noise of the rows that they are measured on; a mean
    over levels does so much less.
    """
    w_path, *others = curves
    return {curve.method: _relative_cost(w_path, curve) for curve in others}


def _relative_cost(w_path: QualityCurve, other: QualityCurve) -> float | None:
    highest = min(max(point.micro_f1 for point in curve.points) for curve in (w_path, other))
    lowest = w_path.points[-1].micro_f1
    levels = np.linspace(lowest, highest, LEVELS) if highest > lowest else [highest]
    ratios = [
        np.log(ours / theirs)
        for level in levels
        if (ours := cost_at(w_path, level)) and (theirs := cost_at(other, level))
    ]
    reaches = max(point.micro_f1 for point in other.points) >= lowest
    return float(np.exp(np.mean(ratios))) if ratios and reaches else None
