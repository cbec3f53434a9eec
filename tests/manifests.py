"""Manifests of schema version 3 as calibration writes them, made up from a seed."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from models.manifest import (
    Certificate,
    Decision,
    Exit,
    LabelFloor,
    Manifest,
    Promise,
    SplitFacts,
)
from models.preprocessing import TensorSpec
from tests.measurements import costs, measurement, profile, score_choice, threshold_curve

EMOTIONS = """
admiration, amusement, anger, annoyance, approval, caring, confusion, curiosity, desire,
disappointment, disapproval, disgust, embarrassment, excitement, fear, gratitude, grief,
joy, love, nervousness, optimism, pride, realization, relief, remorse, sadness,
surprise, neutral
"""
SPLITS = {"fit": 20_000, "tune": 5000, "certify": 5000, "test": 5427}


def full_manifest(
    seed: int = 0, labels: int = 28, layers: int = 7, exits: int = 4, epochs: int = 12
) -> Manifest:
    """A certified manifest with every part that calibration can write.

    seed : every number follows from it
    labels, layers, exits : L, candidate layers and K <= layers; the last exit is full depth
    epochs : of training, in the facts; with 0 the backbone was trained elsewhere
    """
    rng = np.random.default_rng(seed)
    known = [name.strip() for name in EMOTIONS.split(",")]
    names = tuple((known + [f"label {k}" for k in range(len(known), labels)])[:labels])
    layer_names = [*(f"encoder.layer.{k}" for k in range(layers - 1)), "full depth"]
    placed = np.unique(np.round(np.linspace(layers - 1, 0, exits)).astype(int)).tolist()
    return Manifest(
        name="emotions",
        labels=names,
        inputs=(TensorSpec(name="input_ids", dtype="int64", row_shape=(None,)),),
        exits=tuple(_exits(rng, [layer_names[k] for k in placed])),
        score=score_choice(rng, exits - 1),
        certificate=_certificate(rng, names),
        profile=profile(rng, layer_names, labels),
        placement=tuple(_placement(layer_names, placed)),
        threshold_curves=tuple(threshold_curve(rng, number) for number in range(1, exits)),
        test=measurement(rng, names, layers, exits),
        costs=costs(rng, exits),
        splits={
            name: SplitFacts(
                rows=rows, sha256=hashlib.sha256(f"{name} {seed}".encode()).hexdigest()
            )
            for name, rows in SPLITS.items()
        },
        warnings=(
            "the certify split was used before, by the bundle 'emotions' of 12 March: a promise "
            "holds only for the first look",
            "3 rows could not be read and were left out",
        ),
        facts=_facts(rng, seed, exits, epochs),
    )


def _exits(rng: np.random.Generator, layers: list[str]) -> list[Exit]:
    last = len(layers)
    return [
        Exit(
            number=number,
            layer=layer,
            carry=(f"hidden{number}", "attention_mask") if number < last else (),
            threshold=0.3 + 0.4 * rng.random() if number < last else None,
        )
        for number, layer in enumerate(layers, start=1)
    ]


def _certificate(rng: np.random.Generator, names: tuple[str, ...]) -> Certificate:
    floor = [
        LabelFloor(
            label=name,
            positives=positives,
            needed=59,
            mean_loss=float(0.03 * rng.random()) if positives >= 59 else None,
        )
        for name, positives in zip(names, rng.integers(8, 900, len(names)).tolist(), strict=True)
    ]
    return Certificate(
        promises=(
            Promise(
                guarantee="set-agreement",
                against="model",
                epsilon=0.02,
                mean_loss=0.0146,
                p_value=0.0021,
            ),
            Promise(
                guarantee="micro-f1",
                against="labels",
                epsilon=0.01,
                mean_loss=-0.0032,
                p_value=0.0007,
            ),
        ),
        delta=0.05,
        method="Learn-then-Test: fixed-sequence testing along the path of W prices, exact "
        "binomial and betting p-values",
        certified=True,
        rows=SPLITS["certify"],
        label_epsilon=0.05,
        label_floor=tuple(floor),
        policies_on_path=62,
        policies_passed=17,
        sentence="With probability at least 95%, at most 2% of rows get a label set that differs "
        "from the full model's (73 of 5000 rows of the certify split did), and micro-F1 towards "
        "the labels is at most 1% below the full model's, for rows drawn like that split.",
    )


def _placement(names: list[str], placed: list[int]) -> list[Decision]:
    numbers = {layer: number for number, layer in enumerate(placed, start=1)}
    reasons = {
        True: "0.021 of W per ms, over the noise floor",
        False: "a shallower layer is nearer",
    }
    return [
        Decision(layer=name, exit=numbers.get(k), reason=reasons[k in numbers])
        for k, name in enumerate(names)
    ]


def _facts(rng: np.random.Generator, seed: int, exits: int, epochs: int) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "seed": seed,
        "command": {"model": "MiniLM-L6", "data": "goemotions.csv"},
        "options": {
            "name": "emotions",
            "guarantee": {"epsilon": 0.02, "delta": 0.05, "per_label": 0.05},
            "max_exits": 4,
            "keep_depth": False,
        },
        "versions": {"numpy": "2.4.6", "onnx": "1.23.2", "POT": "0.9.7.post1"},
        "pass_seconds": 41.2,
    }
    if epochs:
        facts["training"] = {
            "architecture": "text",
            "best_epoch": epochs,
            "epochs": [_epoch(rng, number, epochs, exits) for number in range(1, epochs + 1)],
            "seconds": 421.5,
        }
    return facts


def _epoch(rng: np.random.Generator, number: int, epochs: int, exits: int) -> dict[str, Any]:
    left = float(np.exp(-4 * number / epochs))
    states = []
    for k in range(1, exits + 1):
        distance = 0.55 + 0.6 * left + 0.02 * (exits - k) + 0.01 * rng.random()
        states.append(
            {
                "exit": k,
                "loss": 0.2 + 0.3 * left,
                "micro_f1": 0.53 - 0.4 * left,
                "w_labels": distance,
                "w_labels_sliced": 0.7 * distance,
                "w_teacher": 0.5 * distance,
            }
        )
    phase = "backbone" if number <= epochs // 2 else "joint"
    return {"epoch": number, "phase": phase, "train_loss": 0.2 + left, "exits": states}
