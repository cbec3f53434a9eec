"""What the engine benchmark serves: a model, its thresholds, and rows by their shapes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from random_encoder import SHARES, exit_thresholds, random_encoder, random_rows

from models.encoding import Group, blank_rows
from models.runtime import Carry, Runtime, StageRuntime

if TYPE_CHECKING:
    from models.bundle import Bundle

TOKENS = 32  # of a random row; most GoEmotions texts have 16 to 32
REFERENCE_BATCH = 64


class Pool:
    """Rows that requests are made of, always in the same shuffled order.

    Parameters
    ----------
    groups : rows of one shape each; their places are 0 to n - 1
    """

    def __init__(self, groups: Sequence[Group], seed: int = 0) -> None:
        self.groups = groups
        self.rows = sum(len(group.rows) for group in groups)
        self._group = np.empty(self.rows, int)
        self._index = np.empty(self.rows, int)
        for number, group in enumerate(groups):
            self._group[group.rows] = number
            self._index[group.rows] = np.arange(len(group.rows))
        self._order = np.random.default_rng(seed).permutation(self.rows)

    def requests(self, rows: int, wanted: np.ndarray | None = None) -> list[list[Group]]:
        """Requests of `rows` rows each, over the whole pool once.

        wanted : bool (n,), which rows to take; by default all
        """
        order = self._order if wanted is None else self._order[wanted[self._order]]
        whole = max(1, len(order) // rows)
        return [self._grouped(order[k * rows : (k + 1) * rows]) for k in range(whole)]

    def _grouped(self, places: np.ndarray) -> list[Group]:
        numbers = self._group[places]
        grouped = []
        for number in np.unique(numbers).tolist():
            mine = np.flatnonzero(numbers == number)
            rows = self._index[places[mine]]
            grouped.append(Group(mine, tuple(t[rows] for t in self.groups[number].tensors)))
        return grouped


@dataclass(frozen=True)
class Case:
    """One model to serve.

    carries : of its K - 1 cuts
    labels : L
    probe : one row, as the service measures the stages with
    thresholds : float32 (K,), see `service.request.Job`
    exits : int (n,), number of the exit that each row of the pool leaves at
    """

    name: str
    model: bytes
    carries: Sequence[Sequence[str]]
    labels: int
    pool: Pool
    probe: Carry
    thresholds: np.ndarray
    exits: np.ndarray

    @property
    def depth(self) -> float:
        """The mean exit."""
        return float(self.exits.mean())


def digits_case(path: Path, rows: int) -> Case:
    """A bundle of the embedded digits, with rows of its test split."""
    from calibration.dataset import SPLITS, split_rows
    from calibration.digits import compose_digits
    from models.bundle import read_bundle

    images = split_rows(compose_digits(rows={**dict.fromkeys(SPLITS, 1), "test": rows}), "test")
    bundle = read_bundle(path)
    expected = bundle.manifest.inputs[0].row_shape
    if images.shape[1:] != expected:
        raise SystemExit(f"{path}: found rows of {expected}, expected digits {images.shape[1:]}")
    return _bundle_case("digits", bundle, Pool([Group(np.arange(len(images)), (images,))]))


def text_case(path: Path, texts: Path, rows: int) -> Case:
    """A bundle of texts, with rows of a data set.

    texts : a file with one text per line, up to the first tab; or a directory with `test.tsv`
    """
    from models.bundle import read_bundle
    from models.encoders import open_encoder

    file = texts / "test.tsv" if texts.is_dir() else texts
    lines = [line.split("\t")[0] for line in file.read_text(encoding="utf-8").splitlines()[:rows]]
    bundle = read_bundle(path)
    manifest = bundle.manifest
    encoder = open_encoder(manifest.preprocessing, manifest.inputs, bundle.files)
    return _bundle_case("GoEmotions", bundle, Pool(encoder.encode(lines).groups))


def random_case(rows: int, name: str = "random encoder", **sizes: int) -> Case:
    """A random encoder, with thresholds at which a given mix of rows leaves."""
    model, carries = random_encoder(**sizes)
    inputs = random_rows(rows, TOKENS, vocabulary=sizes.get("vocabulary", 30522))
    pool = Pool([Group(np.arange(rows), inputs)])
    shares = np.array([*SHARES, *[0.0] * len(carries)][: len(carries) + 1])
    runtime = StageRuntime(model, carries)
    thresholds = exit_thresholds(runtime, inputs, shares / shares.sum())
    probe = tuple(tensor[:1] for tensor in inputs)
    return _routed_case(name, model, carries, sizes.get("labels", 28), pool, probe, thresholds)


def _bundle_case(name: str, bundle: Bundle, pool: Pool) -> Case:
    from service.options import DEFAULTS, thresholds_of

    manifest = bundle.manifest
    thresholds = thresholds_of(DEFAULTS, manifest, range(1, manifest.depth + 1))
    labels, probe = len(manifest.labels), blank_rows(manifest.inputs)
    return _routed_case(name, bundle.model, manifest.carries, labels, pool, probe, thresholds)


def _routed_case(
    name: str,
    model: bytes,
    carries: Sequence[Sequence[str]],
    labels: int,
    pool: Pool,
    probe: Carry,
    thresholds: Sequence[float] | np.ndarray,
) -> Case:
    limits = np.asarray(thresholds, np.float32)
    exits = _exits(StageRuntime(model, carries), pool, limits)
    return Case(name, model, carries, labels, pool, probe, limits, exits)


def _exits(runtime: Runtime, pool: Pool, thresholds: np.ndarray) -> np.ndarray:
    exits = np.zeros(pool.rows, int)
    for group in pool.groups:
        for places, carry in _batches(group):
            waiting = np.arange(len(places))
            for stage, threshold in enumerate(thresholds.tolist(), start=1):
                answers, carry = runtime.run(stage, carry)
                leaves = (answers.score >= threshold) | (threshold == -np.inf)
                exits[places[waiting[leaves]]] = runtime.exits[stage - 1]
                waiting = waiting[~leaves]
                if not len(waiting):
                    break
                carry = runtime.gather([(carry, np.flatnonzero(~leaves))])
    return exits


def _batches(group: Group) -> Iterator[tuple[np.ndarray, Carry]]:
    for start in range(0, len(group.rows), REFERENCE_BATCH):
        part = slice(start, start + REFERENCE_BATCH)
        yield group.rows[part], tuple(tensor[part] for tensor in group.tensors)
