"""`examples.json`: a few labelled rows that a bundle carries, for its users to try.

A list of `{"row": ..., "labels": [...]}`: the row as `POST /predict` takes it (nested lists of
numbers, a text, or an image file as base64), and the names of its true labels.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import numpy as np

from calibration.dataset import SPLITS, Dataset
from calibration.options import CalibrationData
from models.encoding import Encoder
from models.manifest import Manifest
from models.runtime import StageRuntime

CANDIDATES = 512  # rows that are run to see where they leave
CHUNK_ROWS = 256
LARGEST = 262_144  # bytes of one row in the file: a page loads them all


def write_examples(
    count: int, data: CalibrationData, manifest: Manifest, model: bytes, seed: int
) -> bytes:
    """Draw rows of the test split that leave at different exits.

    They show what the bundle does, not how often it does it: of every exit in turn one row is
    taken, as long as there are any, so that a rare exit is seen too.

    Parameters
    ----------
    count : how many rows; there are fewer where fewer can be encoded or are small enough
    manifest : with the policy that says where rows leave
    model : the serialized multi-head graph
    seed : draws the rows
    """
    rng = np.random.default_rng(seed)
    rows = np.flatnonzero(data.split == SPLITS.index("test"))
    drawn = rng.permutation(rows)[:CANDIDATES]
    candidates = {row: raw for row, raw in _raw_rows(data.dataset, drawn) if _size(raw) <= LARGEST}
    exits = _exits(candidates, data.encoder, manifest, model)
    chosen = _in_turn({int(row): exits[row] for row in drawn if row in exits}, count)
    names = data.dataset.names
    examples = [
        {
            "row": _document(candidates[row]),
            "labels": [names[k] for k in np.flatnonzero(data.dataset.labels[row])],
        }
        for row in chosen
    ]
    return json.dumps(examples, separators=(",", ":")).encode()


def _raw_rows(dataset: Dataset, wanted: np.ndarray) -> Iterator[tuple[int, Any]]:
    """The wanted rows with their places, in the order of the data."""
    places, start = np.sort(wanted), 0
    for chunk in dataset.read(CHUNK_ROWS):
        low, high = np.searchsorted(places, (start, start + len(chunk)))
        yield from ((int(place), chunk[place - start]) for place in places[low:high])
        start += len(chunk)


def _exits(
    candidates: dict[int, Any], encoder: Encoder, manifest: Manifest, model: bytes
) -> dict[int, int]:
    """Where each row that can be encoded leaves under the policy."""
    if not candidates:
        return {}
    places, raw = np.array(list(candidates)), list(candidates.values())
    numbers = isinstance(raw[0], np.ndarray)
    runtime = StageRuntime(model, manifest.carries)
    exits: dict[int, int] = {}
    for group in encoder.encode(np.stack(raw) if numbers else raw).groups:
        answers = runtime.all_exits(group.tensors)
        route = manifest.policy.route([exit_answers.score for exit_answers in answers])
        exits |= zip(places[group.rows].tolist(), route.tolist(), strict=True)
    return exits


def _in_turn(exits: dict[int, int], count: int) -> list[int]:
    """At most `count` rows, of every exit one, then of every exit a second one, and so on."""
    turns: dict[int, int] = {}
    taken: dict[int, int] = {}
    for row, number in exits.items():
        turns[row] = taken[number] = taken.get(number, 0) + 1
    return sorted(exits, key=lambda row: (turns[row], exits[row]))[:count]


def _size(raw: Any) -> int:
    """Bytes of a row in the file, about."""
    if isinstance(raw, np.ndarray):
        return raw.size * 12
    return len(raw) * 4 // 3 if isinstance(raw, bytes) else len(raw.encode("utf-8", "replace"))


def _document(raw: Any) -> Any:
    """A row as JSON holds it."""
    if isinstance(raw, np.ndarray):
        if raw.dtype.kind != "f":
            return raw.tolist()
        # the shortest decimals that give the same float32, which is what the door makes of them
        shortest = [float(str(value)) for value in raw.astype(np.float32).ravel()]
        return np.reshape(shortest, raw.shape).tolist()
    return base64.b64encode(raw).decode() if isinstance(raw, bytes) else raw
