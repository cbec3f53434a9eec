"""The candidate layers of one model on one feature cache: heads, answers, profile."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from scipy.special import expit

from calibration.dataset import SPLITS, TO_BE_DRAWN
from calibration.layer_answers import LayerHead, calibrated_head, layer_answers
from calibration.layer_profile import profile_layers
from calibration.split_checks import check_overlap, reuse_warning
from calibration.splits import split_digests
from calibration.stability import noise_distances
from calibration.transport import exact_w
from models.manifest import SplitFacts
from models.measurements import Profile

if TYPE_CHECKING:
    from rich.progress import Progress

    from calibration.features import Features
    from calibration.guarantee import Against
    from calibration.layers import LayeredModel
    from calibration.options import CalibrationData, CalibrationOptions
    from models.heads import HeadLayers
    from models.runtime import Answers

T = TypeVar("T")
SEED_ROWS = 500  # to compare heads of several seeds on


class Steps:
    """The steps of calibration that look at every candidate layer.

    Layers are named by their index into `layered.layers`, splits by their name.
    """

    def __init__(
        self,
        layered: LayeredModel,
        data: CalibrationData,
        options: CalibrationOptions,
        features: Features,
        progress: Progress,
    ) -> None:
        self.layered = layered
        self.options = options
        self.progress = progress
        self._data = data
        self._features = features
        self._rows = {
            name: np.flatnonzero((data.split == k) & features.good) for k, name in enumerate(SPLITS)
        }

    def warnings(self) -> list[str]:
        """What users should know of their splits.

        Raises
        ------
        CalibrationError
            When splits overlap.
        """
        warnings = check_overlap(self._features.hashes, self._rows, self.options.allow_duplicates)
        digest = self.split_facts()["certify"].sha256
        return warnings + reuse_warning(digest, self._data.certified_before)

    @property
    def names(self) -> tuple[str, ...]:
        """The label names."""
        return self._data.dataset.names

    @property
    def pass_seconds(self) -> float:
        """How long the feature pass took in this run."""
        return self._features.seconds

    def labels(self, split: str) -> np.ndarray:
        """True label sets of a split: bool (n, L)."""
        return self._data.dataset.labels[self._rows[split]]

    def column(self, layer: int, split: str) -> np.ndarray:
        """A layer's cached column for the rows of a split: (n, C)."""
        return np.asarray(self._features.columns[layer][self._rows[split]])

    def sample_columns(self, layers: Iterable[int]) -> list[np.ndarray]:
        """The cached columns of some layers for the rows of the sample: (b, C) each."""
        return [np.asarray(self._features.columns[k][self._data.sample.rows]) for k in layers]

    def heads(self, seed: int | None = None) -> list[LayerHead]:
        """A calibrated head for every layer; those without logits are trained first."""
        layers = self.layered.layers
        trained = iter(self._trained([k for k, la in enumerate(layers) if not la.has_logits], seed))
        weights = [None if layer.has_logits else next(trained) for layer in layers]
        labels = self.labels("tune")
        return [
            calibrated_head(self.column(k, "tune"), labels, head)
            for k, head in enumerate(self.track(weights, "calibrate heads"))
        ]

    def answers(self, heads: Sequence[LayerHead], split: str) -> list[Answers]:
        """Answers of every layer to the rows of a split."""
        return [layer_answers(self.column(k, split), head) for k, head in enumerate(heads)]

    def profile(self, heads: Sequence[LayerHead], tune: Sequence[Answers]) -> Profile:
        """Distances, quality and stability of every layer on the tune split."""
        names = [layer.name for layer in self.layered.layers]
        return profile_layers(
            list(zip(names, self.layered.milliseconds, strict=True)),
            tune,
            self.teacher(tune[-1], "tune"),
            self.labels("tune"),
            self.options.seed,
            self.progress,
            self.options.device,
            noise=noise_distances(self.layered, heads, self._data.sample, self.options.seed),
            seeds=self._seed_spread(tune),
        )

    def teacher(self, full: Answers, split: str) -> np.ndarray:
        """Probabilities of the teacher on a split; the full model's where there is no other."""
        if self._data.teacher is None:
            return full.probabilities
        return self._data.teacher[self._rows[split]]

    def prior(self, full: Answers, against: Against) -> float:
        """W of the best answer that does not look at the row, from the target on the tune split."""
        truth = self.labels("tune").astype(float)
        target = truth if against == "labels" else self.teacher(full, "tune")
        return float(np.sqrt(target.var(axis=0).sum()))

    def split_facts(self) -> dict[str, SplitFacts]:
        """Rows and hash of every split."""
        split = np.where(self._features.good, self._data.split, TO_BE_DRAWN)
        digests = split_digests(self._features.hashes, self._data.dataset.labels, split)
        return {
            name: SplitFacts(rows=len(self._rows[name]), sha256=digest)
            for name, digest in digests.items()
        }

    def track(self, items: Sequence[T], description: str) -> Iterable[T]:
        """The items, with a progress bar."""
        return self.progress.track(items, description=description)

    def _seed_spread(self, tune: Sequence[Answers]) -> list[float] | None:
        """Standard deviation of W to the labels over heads of several seeds, per layer."""
        if not self.options.profile_seeds:
            return None
        rows = np.arange(min(SEED_ROWS, len(tune[0])))
        truth = self.labels("tune")[rows].astype(np.float32)
        by_seed = [tune]
        for number in range(1, self.options.profile_seeds + 1):
            heads = self.heads(self.options.seed + number)
            by_seed.append(self.answers(heads, "tune"))
        distances = [[exact_w(a.probabilities[rows], truth) for a in one] for one in by_seed]
        return [float(spread) for spread in np.std(distances, axis=0, ddof=1)]

    def _trained(self, layers: Sequence[int], seed: int | None) -> list[HeadLayers]:
        if not layers:
            return []
        from calibration.head_training import train_heads

        return train_heads(
            [self._features.columns[k] for k in layers],
            self._rows["fit"],
            self.labels("fit"),
            self._soft_labels(),
            replace(self.options.heads, seed=self.options.seed if seed is None else seed),
            self.progress,
        )

    def _soft_labels(self) -> np.ndarray | None:
        """The teacher's probabilities on the fit split, if there is a teacher but the labels."""
        if self._data.teacher is not None:
            return self._data.teacher[self._rows["fit"]]
        if not self.layered.layers[-1].has_logits:
            return None
        logits: np.ndarray = self.column(len(self.layered.layers) - 1, "fit")
        return np.asarray(expit(logits))
