"""The steps of calibration over one feature cache; `calibration.pipeline` puts them in order."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from scipy.special import expit

from calibration.assembly import assemble, check_served
from calibration.certificate import certify
from calibration.costs import measure_costs, without_last_stage
from calibration.dataset import SPLITS, TO_BE_DRAWN
from calibration.layer_answers import LayerHead, calibrated_head, layer_answers
from calibration.measure import profile_layer
from calibration.splits import split_digests
from calibration.thresholds import policy_path, threshold_curve
from models.manifest import Certificate, Costs, LayerProfile, SplitFacts
from models.policy import Policy
from models.runtime import Answers, StageRuntime

if TYPE_CHECKING:
    from rich.progress import Progress

    from calibration.features import Features
    from calibration.guarantee import Guarantee
    from calibration.layers import LayeredModel
    from calibration.options import CalibrationData, CalibrationOptions
    from calibration.placement import Placement
    from models.heads import HeadLayers

T = TypeVar("T")


class Steps:
    """Heads, answers, distances and certificate of one model on one feature cache.

    Layers are named by their index into `layered.layers`, splits by their name.
    """

    def __init__(
        self,
        layered: LayeredModel,
        data: CalibrationData,
        options: CalibrationOptions,
        guarantee: Guarantee,
        features: Features,
        progress: Progress,
    ) -> None:
        self._layered = layered
        self._data = data
        self._options = options
        self._guarantee = guarantee
        self._features = features
        self._progress = progress
        self._rows = {
            name: np.flatnonzero((data.split == k) & features.good) for k, name in enumerate(SPLITS)
        }

    def labels(self, split: str) -> np.ndarray:
        """True label sets of a split: bool (n, L)."""
        return self._data.dataset.labels[self._rows[split]]

    def column(self, layer: int, split: str) -> np.ndarray:
        """A layer's cached column for the rows of a split: (n, C)."""
        return np.asarray(self._features.columns[layer][self._rows[split]])

    def heads(self) -> list[LayerHead]:
        """A calibrated head for every layer; those without logits are trained first."""
        layers = self._layered.layers
        trained = iter(self._trained([k for k, la in enumerate(layers) if not la.has_logits]))
        weights = [None if layer.has_logits else next(trained) for layer in layers]
        labels = self.labels("tune")
        return [
            calibrated_head(self.column(k, "tune"), labels, head)
            for k, head in enumerate(self._track(weights, "calibrate heads"))
        ]

    def answers(self, heads: list[LayerHead], layers: Iterable[int], split: str) -> list[Answers]:
        """Answers of some layers to the rows of a split."""
        return [layer_answers(self.column(k, split), heads[k]) for k in layers]

    def profiles(
        self, answers: Sequence[Answers], layers: Sequence[int], full: Answers, split: str
    ) -> list[LayerProfile]:
        """Distances and quality of these layers' answers on a split, `full` the full model's."""
        truth, seed = self.labels(split), self._options.seed
        teacher = self._teacher(full, split)
        names = [self._layered.layers[k].name for k in layers]
        return [
            profile_layer(name, layer_answers, teacher, truth, seed)
            for name, layer_answers in self._track(
                list(zip(names, answers, strict=True)), f"W-distances, {split}"
            )
        ]

    def prior(self, full: Answers, split: str) -> float:
        """W of the best answer that does not look at the row, from the target distribution."""
        truth = self.labels(split).astype(float)
        target = truth if self._guarantee.against == "labels" else self._teacher(full, split)
        return float(np.sqrt(target.var(axis=0).sum()))

    def certified(
        self, heads: list[LayerHead], placement: Placement, tune: Sequence[Answers]
    ) -> tuple[Policy, Certificate]:
        """The policy to deploy, over the placed exits, and what it may lose to the full model."""
        rng = np.random.default_rng(self._options.seed)
        guarantee = self._guarantee
        *early, last = placement.exits
        teacher = self._teacher(tune[-1], "tune")
        curves = [
            threshold_curve(tune[k], tune[last], teacher, self.labels("tune"), guarantee, rng)
            for k in self._track(early, "W of thresholds")
        ]
        path = policy_path(curves)
        layers = list(placement.exits)
        if placement.truncated:  # rows that stay leave at the last exit, the full model behind it
            layers.append(placement.full_depth)
            nobody = Policy((None,) * len(early))
            path = [Policy((*policy.thresholds, 0.0)) for policy in [nobody, *path]]
        answers = self.answers(heads, layers, "certify")
        policy, certificate = certify(path, answers, self.labels("certify"), guarantee, rng)
        if placement.truncated and certificate.certified:
            policy = Policy(policy.thresholds[:-1])
        return policy, certificate

    def assembled(self, heads: list[LayerHead], placement: Placement) -> tuple[Costs, bytes]:
        """Measured costs and the serialized model, checked against the cache."""
        kept = list(placement.exits)
        sample = self._data.sample
        runtime, model = self._runtime(heads, kept)
        expected = [layer_answers(self._features.columns[k][sample.rows], heads[k]) for k in kept]
        check_served(runtime, sample.tensors, expected)
        if not placement.truncated:
            return measure_costs(runtime, sample.tensors, self._progress), model
        whole, _ = self._runtime(heads, [*kept, placement.full_depth])
        return without_last_stage(measure_costs(whole, sample.tensors, self._progress)), model

    def split_facts(self) -> dict[str, SplitFacts]:
        """Rows and hash of every split."""
        split = np.where(self._features.good, self._data.split, TO_BE_DRAWN)
        digests = split_digests(self._features.hashes, self._data.dataset.labels, split)
        return {
            name: SplitFacts(rows=len(self._rows[name]), sha256=digest)
            for name, digest in digests.items()
        }

    def _trained(self, layers: Sequence[int]) -> list[HeadLayers]:
        if not layers:
            return []
        from calibration.head_training import train_heads

        return train_heads(
            [self._features.columns[k] for k in layers],
            self._rows["fit"],
            self.labels("fit"),
            self._soft_labels(),
            replace(self._options.heads, seed=self._options.seed),
            self._progress,
        )

    def _teacher(self, full: Answers, split: str) -> np.ndarray:
        """Probabilities of the teacher on a split; the full model's where there is no other."""
        if self._data.teacher is None:
            return full.probabilities
        return self._data.teacher[self._rows[split]]

    def _soft_labels(self) -> np.ndarray | None:
        """The teacher's probabilities on the fit split, if there is a teacher but the labels."""
        if self._data.teacher is not None:
            return self._data.teacher[self._rows["fit"]]
        if not self._layered.layers[-1].has_logits:
            return None
        logits: np.ndarray = self.column(len(self._layered.layers) - 1, "fit")
        return np.asarray(expit(logits))

    def _runtime(self, heads: list[LayerHead], layers: Sequence[int]) -> tuple[StageRuntime, bytes]:
        placed = [self._layered.layers[k] for k in layers]
        model = assemble(self._layered, placed, [heads[k] for k in layers]).SerializeToString()
        return StageRuntime(model, [layer.carry for layer in placed[:-1]]), model

    def _track(self, items: Sequence[T], description: str) -> Iterable[T]:
        return self._progress.track(items, description=description)
