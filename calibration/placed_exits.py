"""The placed exits as one chain: heads and scores, answers, thresholds, certificate, graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from calibration.assembly import assemble, carries, check_served
from calibration.certificate import certify
from calibration.costs import ROUNDS, measure_costs, without_last_stage
from calibration.layer_answers import LayerHead, chain_answers, layer_answers
from calibration.score_choice import choose_scores
from calibration.thresholds import WCurve, threshold_curve
from models.measurements import Costs, ScoreChoice, ScoreKind
from models.policy import Policy
from models.runtime import StageRuntime

if TYPE_CHECKING:
    from calibration.guarantee import Guarantees
    from calibration.layers import Layer
    from calibration.placement import Placement
    from calibration.steps import Steps
    from models.encoding import Group
    from models.manifest import Certificate
    from models.runtime import Answers


class PlacedExits:
    """The exits of one placement.

    Parameters
    ----------
    heads : calibrated, of every candidate layer
    sample : a few encoded rows, on which times are measured and the finished model is checked
    """

    def __init__(
        self,
        steps: Steps,
        guarantees: Guarantees,
        heads: Sequence[LayerHead],
        placement: Placement,
        sample: Group,
    ) -> None:
        self.placement = placement
        self._steps = steps
        self._guarantees = guarantees
        self._heads = list(heads)
        self._sample = sample

    @property
    def depth(self) -> int:
        """Number of exits K."""
        return len(self.placement.exits)

    @property
    def layers(self) -> list[Layer]:
        """The layer of every exit."""
        return [self._steps.layered.layers[k] for k in self.placement.exits]

    @property
    def carries(self) -> list[tuple[str, ...]]:
        """Tensors that cross each cut: K - 1 groups."""
        return carries(self.layers, self._placed)

    @property
    def looks_back(self) -> bool:
        """Whether any exit's score reads the exit before it."""
        return any(head.calibration.score.looks_back for head in self._placed)

    @property
    def saved_time(self) -> np.ndarray:
        """What leaving at each early exit saves: float (K - 1,), shares of the model's time."""
        until = np.cumsum(self._steps.layered.milliseconds)[list(self.placement.exits)]
        saved: np.ndarray = (until[-1] - until[:-1]) / until[-1]
        return saved

    def moved(self, placement: Placement) -> PlacedExits:
        """The same heads under another placement."""
        return PlacedExits(self._steps, self._guarantees, self._heads, placement, self._sample)

    def scored(self, kinds: Sequence[ScoreKind], freeze: bool) -> tuple[PlacedExits, ScoreChoice]:
        """With the score that best tells the rows that the exits would lose.

        The last exit takes every row and answers on its own: its labels do not freeze.
        """
        truth, full = self._steps.labels("tune"), self.full("tune").labels
        placed, choice = choose_scores(
            self._columns("tune"),
            self._placed,
            self._target("tune"),
            lambda _, labels: self._guarantees.lost(labels, full, truth),
            kinds,
            freeze,
            self._steps.options.seed,
        )
        scored = self.moved(self.placement)
        for layer, head in zip(self.placement.exits[:-1], placed, strict=False):
            scored._heads[layer] = head
        return scored, choice

    def answers(self, split: str) -> list[Answers]:
        """K answers, one per exit, to the rows of a split."""
        return chain_answers(self._columns(split), self._placed)

    def full(self, split: str) -> Answers:
        """The full model's answers, whether or not it is the last exit."""
        layer = self.placement.full_depth
        return layer_answers(self._steps.column(layer, split), self._heads[layer])

    def curves(self, tune: Sequence[Answers]) -> list[WCurve]:
        """w_k(t) of every exit but the last, on the tune split."""
        target = self._target("tune")
        teacher = self._steps.teacher(self.full("tune"), "tune")
        return [
            threshold_curve(answers, tune[-1], target, teacher, self._guarantees)
            for answers in self._steps.track(tune[:-1], "W of thresholds")
        ]

    def certified(self, path: Sequence[Policy]) -> tuple[PlacedExits, Policy, Certificate]:
        """The policy to deploy over these exits, and what it may lose to the full model.

        Where the model ends early and nothing can be promised of that, full depth is put back.
        """
        answers = self.answers("certify")
        if (
            self.placement.truncated
        ):  # rows that stay leave at the last exit, the full model is behind it
            nobody = Policy((None,) * (self.depth - 1))
            path = [Policy((*policy.thresholds, 0.0)) for policy in [nobody, *path]]
            answers.append(self.full("certify"))
        policy, certificate = certify(
            path,
            answers,
            self._steps.labels("certify"),
            self._guarantees,
            self._steps.names,
            np.random.default_rng(self._steps.options.seed),
            self._target("tune").mean(axis=0),
        )
        if not self.placement.truncated:
            return self, policy, certificate
        if certificate.certified:
            return self, Policy(policy.thresholds[:-1]), certificate
        return self.moved(self.placement.at_full_depth()), policy, certificate

    def assembled(self, rounds: int = ROUNDS) -> tuple[Costs, bytes]:
        """Measured costs and the serialized model, checked against the cache."""
        model = self._model(self.placement.exits)
        runtime = StageRuntime(model, self.carries)
        expected = chain_answers(self._steps.sample_columns(self.placement.exits), self._placed)
        check_served(runtime, self._sample.tensors, expected, self._placed)
        progress = self._steps.progress
        if not self.placement.truncated:
            return measure_costs(model, self.carries, self._sample.tensors, progress, rounds), model
        deep = (*self.placement.exits, self.placement.full_depth)
        whole = self.moved(replace(self.placement, exits=deep))
        costs = measure_costs(
            whole._model(deep), whole.carries, self._sample.tensors, progress, rounds
        )
        return without_last_stage(costs), model

    def _target(self, split: str) -> np.ndarray:
        """What losses are counted towards: the full model's label sets, or the true ones."""
        if self._guarantees.against == "model":
            return self.full(split).labels
        return self._steps.labels(split)

    @property
    def _placed(self) -> list[LayerHead]:
        return [self._heads[k] for k in self.placement.exits]

    def _columns(self, split: str) -> list[np.ndarray]:
        return [self._steps.column(k, split) for k in self.placement.exits]

    def _model(self, exits: Sequence[int]) -> bytes:
        layers = [self._steps.layered.layers[k] for k in exits]
        model = assemble(self._steps.layered, layers, [self._heads[k] for k in exits])
        return bytes(model.SerializeToString())
