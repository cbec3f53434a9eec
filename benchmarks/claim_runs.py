"""Networks with and without auxiliary losses: trained, and measured exit by exit."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from claim_statistics import WITH, Arm, Sampled
from rich.progress import Progress

from calibration.architecture import ArchitectureOptions
from calibration.dataset import SPLITS, Dataset
from calibration.encoded_rows import EncodedRows
from calibration.features import PassOptions, encoding_key, run_pass
from calibration.layer_answers import calibrated_head, layer_answers
from calibration.layers import layers_of_backbone
from calibration.quality import micro_f1
from calibration.resampling import Resampled, Resamples
from calibration.stability import noise_distances
from calibration.trained import Trained, TrainOptions, train
from calibration.transport import exact_w
from models.encoders import open_encoder
from models.encoding import Group
from models.runtime import Answers

NOISE_ROWS = 500  # of the test split, other ones for every seed
DATA_SEED = 0  # draws splits and sub-samples, the same ones for all networks


@dataclass(frozen=True)
class Setting:
    """What all networks have in common."""

    name: str
    dataset: Dataset
    split: np.ndarray
    architecture: ArchitectureOptions
    epochs: int
    threads: int

    def rows(self, split: str) -> np.ndarray:
        """Places of the rows of a split, int (n,)."""
        return np.flatnonzero(self.split == SPLITS.index(split))


@dataclass(frozen=True)
class Run:
    """One trained network: values per exit, and epochs as `facts["epochs"]` records them."""

    w: list[Resampled]
    f1: list[Resampled]
    tune_w: list[float]
    tune_f1: list[float]
    noise: list[float]
    epochs: list[dict[str, Any]]
    network: str


def train_and_measure(setting: Setting, seed: int, auxiliary: bool) -> Run:
    """One network of one arm, from nothing to its numbers."""
    schedule = {"schedule": "joint", "epochs": setting.epochs}
    if not auxiliary:
        schedule = {"schedule": "backbone", "epochs": 2 * setting.epochs, "backbone_share": 0.5}
    options = TrainOptions(
        setting.architecture,
        {**schedule, "seed": seed, "patience": None},
        threads=setting.threads,
    )
    trained = train(options, setting.dataset, setting.split, Progress(disable=True))
    return measure(setting, trained, seed)


def measure(setting: Setting, trained: Trained, seed: int) -> Run:
    """Answers of every exit, and what they are worth."""
    dataset, silent = setting.dataset, Progress(disable=True)
    encoder = open_encoder(trained.preprocessing, trained.backbone.inputs, trained.files)
    chosen = np.random.default_rng(seed).permutation(setting.rows("test"))[:NOISE_ROWS]
    batch = next(EncodedRows(dataset, np.sort(chosen), encoder).in_order(NOISE_ROWS))
    sample = Group(np.arange(len(batch)), batch.tensors)
    layered = layers_of_backbone(trained.backbone, batch.tensors, len(dataset.names))
    columns = [layer.column for layer in layered.layers]
    encoding = encoding_key(trained.preprocessing, trained.files)
    with tempfile.TemporaryDirectory(prefix="offramp-") as cache:
        once = PassOptions(Path(cache), lanes=setting.threads)
        features = run_pass(layered.model, columns, encoder, encoding, dataset, once, silent)
        logits = [np.array(column) for column in features.columns]  # K x (n, L)
    tune, test = setting.rows("tune"), setting.rows("test")
    truth = dataset.labels[tune]
    heads = [calibrated_head(of_exit[tune], truth, None) for of_exit in logits]
    on_tune, on_test = (
        [layer_answers(of_exit[rows], head) for of_exit, head in zip(logits, heads, strict=True)]
        for rows in (tune, test)
    )
    resamples = Resamples.of(len(test), DATA_SEED)
    few = Resamples.of(len(tune), DATA_SEED, draws=0)
    return Run(
        w=[sampled_w(answers, dataset.labels[test], resamples) for answers in on_test],
        f1=[sampled_f1(answers, dataset.labels[test], resamples) for answers in on_test],
        tune_w=[sampled_w(answers, truth, few).value for answers in on_tune],
        tune_f1=[micro_f1(answers.labels, truth) for answers in on_tune],
        noise=noise_distances(layered, heads, sample, seed),
        epochs=trained.facts["epochs"],
        network=f"{trained.facts['architecture']}, {trained.facts['parameters']:,} weights",
    )


def sampled_w(answers: Answers, truth: np.ndarray, resamples: Resamples) -> Resampled:
    target = truth.astype(np.float32)
    parts, draws = (
        [exact_w(answers.probabilities[rows], target[rows]) for rows in sets]
        for sets in (resamples.parts, resamples.draws)
    )
    value = float(np.mean(parts))
    return Resampled(value, np.array(draws), resamples.rows, resamples.part_rows)


def sampled_f1(answers: Answers, truth: np.ndarray, resamples: Resamples) -> Resampled:
    draws = [micro_f1(answers.labels[rows], truth[rows]) for rows in resamples.draws]
    value = micro_f1(answers.labels, truth)
    return Resampled(value, np.array(draws), resamples.rows, resamples.total)


def arm_of(name: str, runs: Sequence[Run]) -> Arm:
    depth = len(runs[0].w)
    last = "joint" if name == WITH else "backbone"
    phases = [last if name == WITH else "heads"] * (depth - 1) + [last]

    def stacked(measured: Iterable[list[Resampled]]) -> Sampled:
        exits = [[(one.value, one.rescaled()) for one in of_seed] for of_seed in measured]
        values = [[value for value, _ in of_seed] for of_seed in exits]
        rows = [np.stack([rows for _, rows in of_seed], axis=1) for of_seed in exits]
        return Sampled(np.array(values), np.array(rows))

    def along(what: str) -> tuple[np.ndarray, ...]:
        return tuple(
            np.array([[e["exits"][k][what] for e in run.epochs if e["phase"] == p] for run in runs])
            for k, p in enumerate(phases)
        )

    return Arm(
        name,
        w=stacked(run.w for run in runs),
        f1=stacked(run.f1 for run in runs),
        tune_w=np.array([run.tune_w for run in runs]),
        tune_f1=np.array([run.tune_f1 for run in runs]),
        batches=np.array([[of_exit.spread for of_exit in run.w] for run in runs]),
        draws=len(runs[0].w[0].replicates),
        noise=np.array([run.noise for run in runs]),
        epochs=along("w_labels"),
        losses=along("loss"),
    )
