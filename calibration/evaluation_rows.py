"""Labelled rows for the evaluation of a bundle: opened as it reads them, and answered."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from calibration.checks import listed
from calibration.dataset import Dataset
from calibration.encoded_rows import CHUNK_ROWS
from calibration.parts import Part
from calibration.readers import DataOptions, open_part
from calibration.splits import hash_rows, split_number
from models.encoders import open_encoder
from models.errors import CalibrationError
from models.runtime import Answers, StageRuntime

if TYPE_CHECKING:
    from rich.progress import Progress

    from models.bundle import Bundle
    from models.encoding import RawRows
    from models.manifest import Manifest


@dataclass(frozen=True)
class AnsweredRows:
    """The answers of K exits to m rows of a data set; nothing else of the rows is kept.

    rows : int (m,), which rows of the data set, ascending
    hashes : uint64 (m,), of the raw rows
    skipped : how many could not be answered
    """

    rows: np.ndarray
    answers: list[Answers]
    hashes: np.ndarray
    skipped: int


def open_rows(
    given: DataOptions, manifest: Manifest, split: str | None
) -> tuple[Dataset, np.ndarray]:
    """Open labelled rows of the bundle's kind, with their labels in the bundle's order.

    Returns
    -------
    The data, and which of its rows are taken, int (n,), ascending: all, or those of a split.

    Raises
    ------
    CalibrationError
        When rows or labels are not of the bundle's kind, or the split has no rows.
    """
    part = open_part(given.path, given)
    kind = manifest.preprocessing.kind
    if part.data.kind != kind:
        raise CalibrationError(
            f"{part.path} holds rows of kind {part.data.kind}, but the bundle {manifest.name} "
            f"reads {kind}: give rows of that kind, or name their column with --text-column or "
            "--image-column"
        )
    rows = np.arange(len(part.data))
    if split is not None:
        rows = np.flatnonzero(part.data.split == split_number(split, "--split"))
    if not len(rows):
        raise CalibrationError(
            f"{part.path} has no row of the split {split!r}: name the column of splits with "
            "--split-column, or leave --split out to take all rows"
        )
    return _in_order(part, manifest.labels, given.drop_absent_labels), rows


def _in_order(part: Part, names: tuple[str, ...], drop_absent: bool) -> Dataset:
    """Labels in the bundle's order; where label sets are listed, one in none has no positives."""
    data = part.data
    if data.names == tuple(map(str, range(len(names)))):
        return replace(data, names=names)
    absent = [name for column, name in enumerate(data.names) if not data.labels[:, column].any()]
    unknown = sorted(set(data.names).difference(names, absent if drop_absent else ()))
    missing = [] if part.open_names else sorted(set(names).difference(data.names))
    if unknown or missing:
        raise CalibrationError(
            f"the labels of {part.path} are not the bundle's: only the data has "
            f"{listed(unknown) or 'none'}, only the bundle has {listed(missing) or 'none'}; "
            "rename them, or name the label columns with --labels"
        )
    columns = [data.names.index(name) if name in data.names else -1 for name in names]
    with_none = np.pad(data.labels, ((0, 0), (0, 1)))  # the last column, -1, has no positives
    return replace(data, names=names, labels=with_none[:, columns])


def answer_rows(
    bundle: Bundle,
    data: Dataset,
    rows: np.ndarray,
    progress: Progress,
    batch: int = 32,
    lanes: int = 1,
    skip_bad: bool = False,
) -> AnsweredRows:
    """Run all stages over some rows of a data set.

    Parameters
    ----------
    rows : int (n,), ascending
    batch, lanes : rows per run, and cores
    skip_bad : leave out rows that cannot be answered; else the first is a CalibrationError with
        its place
    """
    manifest = bundle.manifest
    encoder = open_encoder(manifest.preprocessing, manifest.inputs, bundle.files)
    runtime = StageRuntime(bundle.model, manifest.carries, lanes)
    count, shape = len(rows), (len(rows), len(manifest.labels))
    kinds = ((shape, np.float32), (shape, np.bool_), (count, np.float32))
    answers = [Answers(*(np.zeros(*kind) for kind in kinds)) for _ in range(runtime.depth)]
    hashes, good = np.zeros(count, np.uint64), np.zeros(count, bool)
    task = progress.add_task("answer rows", total=count)
    for places, raw in _chunks(data, rows):
        hashes[places] = hash_rows(raw)
        encoded = encoder.encode(raw)
        bad = {int(places[row]): fault for row, fault in encoded.bad.items()}
        for group in encoded.groups:
            at = places[group.rows]
            for kept, found in zip(answers, runtime.all_exits(group.tensors, batch), strict=True):
                kept.probabilities[at], kept.labels[at] = found.probabilities, found.labels
                kept.score[at] = found.score
            good[at] = np.isfinite([kept.score[at] for kept in answers]).all(axis=0)
            bad |= dict.fromkeys(at[~good[at]].tolist(), "the model has no finite answer to it")
        if bad and not skip_bad:
            place, fault = min(bad.items())
            raise CalibrationError(
                f"{data.place(int(rows[place]))}: {fault}; correct or remove the row, or leave "
                "out all such rows with --skip-bad"
            )
        progress.advance(task, len(places))
    return AnsweredRows(
        rows[good], [a.take(good) for a in answers], hashes[good], int((~good).sum())
    )


def _chunks(data: Dataset, rows: np.ndarray) -> Iterator[tuple[np.ndarray, RawRows]]:
    """The raw rows of `rows`, chunk by chunk, with their places among `rows`."""
    start = 0
    for raw in data.read(CHUNK_ROWS):
        low, high = np.searchsorted(rows, (start, start + len(raw)))
        chosen = rows[low:high] - start
        if len(chosen):
            taken = raw[chosen] if isinstance(raw, np.ndarray) else [raw[row] for row in chosen]
            yield np.arange(low, high), taken
        start += len(raw)
