"""The models that the peers serve, taken out of bundles: whole, cut off, or in stages for torch."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
from peers.peer_model import FACTS, MODEL, ROUTE, STAGE, TOKENIZER

from models.bundle import Bundle
from models.graph import split_stages
from models.preprocessing import NumberPreprocessing, TextPreprocessing
from service.options import DEFAULTS, thresholds_of


def write_peer(folder: Path, bundle: Bundle, exit_number: int) -> Path:
    """The model from its input to one exit, in one piece."""
    return _write(folder, bundle, [exit_number], MODEL)


def write_eager(folder: Path, bundle: Bundle) -> Path:
    """All stages, with the carries and the thresholds of the bundle's policy."""
    manifest = bundle.manifest
    exits = range(1, manifest.depth + 1)
    thresholds = thresholds_of(DEFAULTS, manifest, exits).tolist()
    route = {"thresholds": thresholds, "carries": [list(carry) for carry in manifest.carries]}
    _write(folder, bundle, list(exits), STAGE)
    (folder / ROUTE).write_text(json.dumps(route), encoding="utf-8")
    return folder


def _write(folder: Path, bundle: Bundle, exits: list[int], name: str) -> Path:
    folder.mkdir(parents=True)
    manifest = bundle.manifest
    carries = [manifest.carries[number - 1] for number in exits[:-1]]
    model = onnx.load_model_from_string(bundle.model)
    for number, stage in enumerate(split_stages(model, carries, exits), start=1):
        onnx.save(stage, folder / name.format(number))
    facts = {"labels": manifest.labels, "inputs": [spec.name for spec in manifest.inputs]}
    preprocessing = manifest.preprocessing
    if isinstance(preprocessing, TextPreprocessing):
        facts |= {"max_tokens": preprocessing.max_tokens, "pad_id": preprocessing.pad_id}
        (folder / TOKENIZER).write_bytes(bundle.files[TOKENIZER])
    if isinstance(preprocessing, NumberPreprocessing):
        facts |= {"mean": preprocessing.mean, "scale": preprocessing.scale}
    (folder / FACTS).write_text(json.dumps(facts), encoding="utf-8")
    return folder
