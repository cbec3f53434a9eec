"""Encoded rows of a data set: batches of equal shapes, out of memory or encoded anew."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from calibration.dataset import Dataset
from models.encoding import Encoder, Group, RawRows
from models.errors import CalibrationError

CHUNK_ROWS = 256  # read and encoded at a time
CACHE_BYTES = 2**30
BUFFER_BYTES = 2**28  # of the shuffle buffer, where the rows do not fit the cache


@dataclass(frozen=True)
class Batch:
    """Rows of equal shapes.

    tensors : one array (b, ...) per input of the model
    labels : float32 (b, L), multi-hot
    """

    tensors: tuple[np.ndarray, ...]
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)


class EncodedRows:
    """Some rows of a data set, as batches of the model's inputs.

    Rows are encoded once, so that bad ones are found at once, and kept while they take at most
    `cache_bytes` (while they are put together, twice that); otherwise every pass encodes them
    anew, and shuffles within a buffer: rows that are sorted by label should be shuffled before.

    Parameters
    ----------
    dataset : rows and labels
    rows : int (n,), which rows of it, ascending
    encoder : makes the model's inputs
    skip_bad : leave out rows that cannot be encoded, instead of refusing the data
    cache_bytes : the most that is kept of encoded rows
    buffer_bytes : of the shuffle buffer

    Raises
    ------
    CalibrationError
        When a row cannot be encoded and is not to be skipped, or none can be; it names the place.
    """

    def __init__(
        self,
        dataset: Dataset,
        rows: np.ndarray,
        encoder: Encoder,
        skip_bad: bool = False,
        cache_bytes: int = CACHE_BYTES,
        buffer_bytes: int = BUFFER_BYTES,
    ) -> None:
        self._dataset = dataset
        self._rows = rows
        self._encoder = encoder
        self._skip_bad = skip_bad
        self._buffer_bytes = buffer_bytes
        self._cached = self._encode_all(cache_bytes)

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def cached(self) -> bool:
        """Whether the encoded rows are in memory."""
        return self._cached is not None

    def example(self, rows: int = 2) -> tuple[np.ndarray, ...]:
        """Make tensors of `rows` equal rows, for an exporter."""
        first = next(self._encode()) if self._cached is None else self._cached[0]
        return tuple(np.repeat(tensor[:1], rows, axis=0) for tensor in first.tensors)

    def shuffled(self, size: int, rng: np.random.Generator) -> Iterator[Batch]:
        """All rows once, in batches of at most `size` rows in random order.

        Batches of one shape differ by at most one row in size, so that no batch is a tiny rest.
        """
        if self._cached is not None:
            yield from self._batches(self._cached, size, rng)
            return
        buffer: list[Group] = []
        for group in self._encode():
            buffer.append(group)
            if _bytes(buffer) > self._buffer_bytes:
                leaving, buffer = _halves(_joined(buffer), rng)
                yield from self._batches(leaving, size, rng)
        yield from self._batches(_joined(buffer), size, rng)

    def in_order(self, size: int) -> Iterator[Batch]:
        """All rows once, in the same order every time, in batches of at most `size` rows."""
        for group in self._encode() if self._cached is None else self._cached:
            for start in range(0, len(group.rows), size):
                yield self._batch(group, np.arange(start, min(start + size, len(group.rows))))

    def _batches(
        self, groups: Sequence[Group], size: int, rng: np.random.Generator
    ) -> Iterator[Batch]:
        chosen = [
            (group, places)
            for group in groups
            for places in np.array_split(
                rng.permutation(len(group.rows)), -(-len(group.rows) // size)
            )
        ]
        for index in rng.permutation(len(chosen)):
            yield self._batch(*chosen[index])

    def _batch(self, group: Group, places: np.ndarray) -> Batch:
        labels = self._dataset.labels[group.rows[places]].astype(np.float32)  # (b, L)
        return Batch(tuple(tensor[places] for tensor in group.tensors), labels)

    def _encode_all(self, limit: int) -> list[Group] | None:
        """One group per shape, or None when they take more than `limit` bytes; drops bad rows."""
        groups: list[Group] = []
        held = 0
        good = [np.zeros(0, np.int64)]
        for group in self._encode():
            good.append(group.rows)
            held += _bytes([group])
            if held <= limit:
                groups.append(group)
            else:
                groups.clear()
        rows = np.sort(np.concatenate(good))
        if not len(rows):
            first = self._dataset.place(int(self._rows[0]))
            raise CalibrationError(
                f"none of {len(self._rows)} rows can be encoded, from {first} on: run without "
                "--skip-bad to see why"
            )
        self._rows = rows
        return _joined(groups) if held <= limit else None

    def _encode(self) -> Iterator[Group]:
        """The chosen rows, chunk by chunk; `Group.rows` are rows of the data set."""
        start = 0
        for raw in self._dataset.read(CHUNK_ROWS):
            low, high = np.searchsorted(self._rows, (start, start + len(raw)))
            rows = self._rows[low:high]
            if len(rows):
                encoded = self._encoder.encode(_take(raw, rows - start))
                self._check(encoded.bad, rows)
                for group in encoded.groups:
                    yield Group(rows[group.rows], group.tensors)
            start += len(raw)

    def _check(self, bad: Mapping[int, str], rows: np.ndarray) -> None:
        if bad and not self._skip_bad:
            place, fault = min(bad.items())
            raise CalibrationError(
                f"{self._dataset.place(int(rows[place]))}: {fault}; correct or remove the row, or "
                "leave out all such rows with --skip-bad"
            )


def _take(raw: RawRows, places: np.ndarray) -> RawRows:
    if isinstance(raw, np.ndarray):
        return np.asarray(raw[places])
    return [raw[place] for place in places]


def _bytes(groups: Sequence[Group]) -> int:
    return sum(tensor.nbytes for group in groups for tensor in group.tensors)


def _joined(groups: Sequence[Group]) -> list[Group]:
    """One group per shape, in the order in which the shapes came."""
    by_shape = defaultdict(list)
    for group in groups:
        by_shape[tuple(tensor.shape[1:] for tensor in group.tensors)].append(group)
    return [
        Group(
            np.concatenate([group.rows for group in same]),
            tuple(map(np.concatenate, zip(*(group.tensors for group in same), strict=True))),
        )
        for same in by_shape.values()
    ]


def _halves(groups: Sequence[Group], rng: np.random.Generator) -> tuple[list[Group], list[Group]]:
    """Each group parted at random into two halves."""
    parts: tuple[list[Group], list[Group]] = ([], [])
    for group in groups:
        order = rng.permutation(len(group.rows))
        for part, places in zip(parts, np.array_split(order, 2), strict=True):
            part.append(Group(group.rows[places], tuple(t[places] for t in group.tensors)))
    return parts
