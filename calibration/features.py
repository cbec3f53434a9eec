"""The feature cache: ONE pass of the backbone over the data, kept on disk by content hash.

A pass that was interrupted goes on where it was; a pass that was finished is not run again.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np

from calibration.dataset import Dataset
from calibration.feature_columns import Column, column_graph
from calibration.feature_store import FeatureStore
from calibration.splits import hash_rows
from models.errors import CalibrationError
from models.machine import available_cores
from models.runtime import open_session

if TYPE_CHECKING:
    import onnx
    import onnxruntime
    from rich.progress import Progress

    from models.encoding import Encoder, Group
    from models.preprocessing import Preprocessing

CHUNK_ROWS = 2048  # rows read and encoded together: enough to fill batches of every length
CHUNK_BYTES = 2**26  # of the encoded rows of a chunk; two are in memory at a time
SAVE_SECONDS = 10
OPEN_SIZE = 512  # taken for a size that the model leaves open, as with tokens
NAMED_ROWS = 5
LAYOUT = 1  # of the files; part of every key


@dataclass(frozen=True)
class Features:
    """What the pass left, in files that are mapped into memory.

    columns : one array (n, C) per column
    hashes : uint64 (n,), of the raw rows
    good : bool (n,), false where a row could not be encoded and was skipped
    seconds : of this run's pass; 0 where the cache held everything
    """

    columns: tuple[np.ndarray, ...]
    hashes: np.ndarray
    good: np.ndarray
    seconds: float


@dataclass(frozen=True)
class PassOptions:
    """How the pass is run."""

    cache: Path  # folder of all caches
    batch: int = 32  # rows per run of the backbone
    lanes: int = field(default_factory=available_cores)  # threads that run it, a core each
    skip_bad: bool = False  # leave out rows that cannot be encoded, instead of refusing the data


def run_pass(
    model: onnx.ModelProto,
    columns: Sequence[Column],
    encoder: Encoder,
    encoding: str,
    dataset: Dataset,
    options: PassOptions,
    progress: Progress,
    description: str = "features",
) -> Features:
    """Run the backbone over all rows, or find the result in the cache.

    Parameters
    ----------
    model : has every column's tensor, (batch, C)
    encoding : see `encoding_key`

    Raises
    ------
    CalibrationError
        When rows cannot be encoded and are not to be skipped; the first ones are named.
    """
    content = column_graph(model, columns).SerializeToString(deterministic=True)
    folder = options.cache / _key(content, columns, encoding, dataset)
    session = open_session(content)
    with _cache_errors(folder):
        store = FeatureStore(folder, len(dataset), columns)
    started = perf_counter()
    if store.rows_done < len(dataset):
        _Pass(session, store, encoder, dataset, options).run(progress, description)
    seconds = perf_counter() - started
    bad = np.flatnonzero(~store.good)
    if len(bad) and not options.skip_bad:
        raise CalibrationError(_bad_rows(bad, store, dataset))
    return Features(tuple(store.columns), store.hashes, np.array(store.good), seconds)


def encoding_key(preprocessing: Preprocessing, files: Mapping[str, bytes]) -> str:
    """All that decides how rows are encoded: a part of the cache's key."""
    digests = [f"{name}={hashlib.sha256(content).hexdigest()}" for name, content in files.items()]
    return "\n".join([preprocessing.model_dump_json(), *sorted(digests)])


def default_cache() -> Path:
    """`$XDG_CACHE_HOME/offramp`, by default `~/.cache/offramp`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "offramp"


class _Pass:
    """Encodes chunk after chunk while lanes run the batches of the chunk before."""

    def __init__(
        self,
        session: onnxruntime.InferenceSession,
        store: FeatureStore,
        encoder: Encoder,
        dataset: Dataset,
        options: PassOptions,
    ) -> None:
        self._session = session
        self._inputs = [value.name for value in session.get_inputs()]
        self._store = store
        self._encoder = encoder
        self._dataset = dataset
        self._options = options

    def run(self, progress: Progress, description: str) -> None:
        total = len(self._dataset)
        task = progress.add_task(description, total=total, completed=self._store.rows_done)
        saved = perf_counter()
        chunks: deque[tuple[int, list[Future[None]]]] = deque()
        with ThreadPoolExecutor(self._options.lanes, thread_name_prefix="pass") as lanes:
            try:
                for end, groups in self._encoded_chunks():
                    batches = [b for group in groups for b in _batches(group, self._options.batch)]
                    chunks.append((end, [lanes.submit(self._run, *batch) for batch in batches]))
                    while len(chunks) > (1 if end < total else 0):
                        done, futures = chunks.popleft()
                        for future in futures:
                            future.result()
                        progress.update(task, completed=done)
                        if perf_counter() - saved > SAVE_SECONDS or done == total:
                            self._store.save(done)
                            saved = perf_counter()
            except BaseException:
                lanes.shutdown(cancel_futures=True)
                raise

    def _encoded_chunks(self) -> Iterator[tuple[int, list[Group]]]:
        """Chunks that are still to be done: the row they end before, and their groups."""
        start = 0
        for raw in self._dataset.read(self._chunk_rows()):
            end = start + len(raw)
            if end > self._store.rows_done:
                self._store.hashes[start:end] = hash_rows(raw)
                encoded = self._encoder.encode(raw)
                for row, reason in encoded.bad.items():
                    self._store.bad[start + row] = reason
                    self._store.good[start + row] = False
                yield end, [replace(group, rows=group.rows + start) for group in encoded.groups]
            start = end

    def _chunk_rows(self) -> int:
        sizes = [
            [size if isinstance(size, int) else OPEN_SIZE for size in value.shape[1:]]
            for value in self._session.get_inputs()
        ]
        row_bytes = 4 * sum(math.prod(shape) for shape in sizes)
        return min(CHUNK_ROWS, max(self._options.batch, CHUNK_BYTES // row_bytes))

    def _run(self, rows: np.ndarray, tensors: tuple[np.ndarray, ...]) -> None:
        feeds = dict(zip(self._inputs, tensors, strict=True))
        for column, values in zip(self._store.columns, self._session.run(None, feeds), strict=True):
            column[rows] = values


def _key(content: bytes, columns: Sequence[Column], encoding: str, dataset: Dataset) -> str:
    digest = hashlib.sha256(content)
    facts = [LAYOUT, [asdict(column) for column in columns], encoding, dataset.digest, len(dataset)]
    digest.update(json.dumps(facts).encode())
    return digest.hexdigest()[:32]


def _batches(group: Group, size: int) -> Iterator[tuple[np.ndarray, tuple[np.ndarray, ...]]]:
    for start in range(0, len(group.rows), size):
        part = slice(start, start + size)
        yield group.rows[part], tuple(tensor[part] for tensor in group.tensors)


def _bad_rows(bad: np.ndarray, store: FeatureStore, dataset: Dataset) -> str:
    named = "; ".join(
        f"{dataset.place(int(row))}: {store.bad[int(row)]}" for row in bad[:NAMED_ROWS]
    )
    more = f"; and {len(bad) - NAMED_ROWS} more" if len(bad) > NAMED_ROWS else ""
    return (
        f"{len(bad)} of {len(dataset)} rows cannot be read: {named}{more}. Repair them, or leave "
        "them out with --skip-bad"
    )


@contextmanager
def _cache_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CalibrationError(
            f"the feature cache {folder} cannot be used ({error.strerror or error}); name another "
            "place with --cache"
        ) from error
