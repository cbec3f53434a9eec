"""What the service must answer, computed beside it from the same bundle, for rows of a pool."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from copy import copy
from functools import cache
from itertools import combinations

import numpy as np

from models.bundle import EXAMPLES, Bundle
from models.encoders import open_encoder, refuse_bad
from models.encoding import RawRows
from models.manifest import Manifest
from models.policy import Policy
from models.runtime import Answers, StageRuntime, at_exits
from service.options import Options
from service.schema import raw_rows

TOLERANCE = 1e-4
"""Of probabilities and scores. Rows whose score is as near to a threshold are left out."""
DIGITS = 3
"""Behind the point of numbers in a pool: JSON holds them exactly, and is short."""
NOISE = 0.05
CHUNK = 64


class Oracle:
    """The answers of every exit to every row of a pool.

    Parameters
    ----------
    rows : n of them, as the bundle reads them
    """

    def __init__(self, bundle: Bundle, rows: RawRows) -> None:
        self.manifest: Manifest = bundle.manifest
        self.version = self.manifest.version
        encoder = open_encoder(self.manifest.preprocessing, self.manifest.inputs, bundle.files)
        self._groups = refuse_bad(encoder.encode(rows))
        self._runtime = StageRuntime(bundle.model, self.manifest.carries)
        self.everywhere = self._all_exits(CHUNK)
        self.exits_of: Callable[[str, int | None], np.ndarray] = cache(self._exits_of)

    @property
    def depth(self) -> int:
        """Number of exits K."""
        return self.manifest.depth

    def policy_of(self, options: Options) -> Policy:
        """The policy that a request asks for by name."""
        kind, _, number = options.policy.partition(":")
        if kind == "exit":
            return Policy.at_exit(int(number), self.depth)
        return self.manifest.policy if kind == "certified" else Policy.full(self.depth)

    def answers_at(self, exits: np.ndarray, places: np.ndarray) -> Answers:
        """The answers to rows of the pool, int (b,), at exits of theirs, int (b,) in 1..K."""
        return at_exits([answers.take(places) for answers in self.everywhere], exits)

    def certified(self, options: Options, exits: np.ndarray, score: np.ndarray) -> np.ndarray:
        """Whether the certificate covers answers with these scores at these exits: bool (b,)."""
        covered = exits == self.depth
        if self.policy_of(options) == self.manifest.policy:
            for number in range(1, self.depth):
                covered |= (exits == number) & self.manifest.policy.leaves(number, score)
        return covered

    def steady(self) -> np.ndarray:
        """Rows whose exits and labels do not hang on rounding: int (m,)."""
        steady = np.ones(len(self.everywhere[0]), bool)
        for answers, alone in zip(self.everywhere, self._all_exits(1), strict=True):
            steady &= (answers.labels == alone.labels).all(axis=1)
        for answers, threshold in zip(
            self.everywhere, self.manifest.policy.thresholds, strict=False
        ):
            if threshold is not None:
                steady &= np.abs(answers.score - threshold) > 2 * TOLERANCE
        return np.flatnonzero(steady)

    def calm(self) -> np.ndarray:
        """Rows over which early exits lose less than half of what was promised: int (m,).

        The monitor has no cause then to fall back to full depth, whatever was promised: no loss is
        more than one, nor is there one where the label sets are equal.
        """
        early = self.answers_at(
            self.exits_of("certified", None), np.arange(len(self.everywhere[0]))
        )
        agrees = (early.labels == self.everywhere[-1].labels).all(axis=1)
        epsilons = [promise.epsilon for promise in self.manifest.certificate.promises]
        allowed = int(min(epsilons, default=1.0) / 2 * agrees.sum())
        return np.sort(np.r_[np.flatnonzero(agrees), np.flatnonzero(~agrees)[:allowed]])

    def differs_from(self, other: Oracle) -> np.ndarray:
        """Rows whose answers, at whichever exit, are those of one bundle only: int (m,)."""
        differ = np.ones(len(self.everywhere[0]), bool)
        for mine, its in zip(self.everywhere, other.everywhere, strict=True):
            far = np.abs(mine.probabilities - its.probabilities).max(axis=1)
            differ &= far > 2 * TOLERANCE
        return np.flatnonzero(differ)

    def of(self, rows: np.ndarray) -> Oracle:
        """The oracle over some of the rows: int (m,)."""
        taken = copy(self)
        taken.everywhere = [answers.take(rows) for answers in self.everywhere]
        taken.exits_of = cache(taken._exits_of)
        return taken

    def _exits_of(self, policy: str, max_exit: int | None) -> np.ndarray:
        """Where every row of the pool leaves: int (n,)."""
        exits = self.policy_of(Options(policy)).route(
            [answers.score for answers in self.everywhere]
        )
        return np.minimum(exits, max_exit or self.depth)

    def _all_exits(self, batch: int) -> list[Answers]:
        parts = [self._runtime.all_exits(group.tensors, batch) for group in self._groups]
        order = np.argsort(np.concatenate([group.rows for group in self._groups]))
        return [
            Answers.concatenate(exit_parts).take(order) for exit_parts in zip(*parts, strict=True)
        ]


def draw_pool(
    bundles: Sequence[Bundle], count: int, seed: int = 0, calm: bool = False
) -> tuple[RawRows, list[Oracle]]:
    """Rows for all bundles, of one kind of input, and an oracle for each.

    Left out are rows that are not steady, or that two of the bundles answer alike.

    Parameters
    ----------
    count : rows before some are left out
    calm : leave out what might make the monitor fall back
    """
    rows = _raw_rows(bundles[0], count, seed)
    for wanted in (Oracle.steady, *([Oracle.calm] if calm else [])):
        kept = set(range(len(rows)))
        for bundle in bundles:
            kept &= set(wanted(Oracle(bundle, rows)).tolist())
        rows = _taken(rows, sorted(kept))
    oracles = [Oracle(bundle, rows) for bundle in bundles]
    for one, other in combinations(oracles, 2):
        differ = one.differs_from(other)
        rows, oracles = _taken(rows, differ.tolist()), [each.of(differ) for each in oracles]
    if not len(rows):
        raise SystemExit(
            "found no row whose answers are steady and of one bundle only, expected other bundles"
        )
    return rows, oracles


def _raw_rows(bundle: Bundle, count: int, seed: int) -> RawRows:
    """Composed digits for the demo; else the bundle's examples, numbers with noise."""
    manifest = bundle.manifest
    if manifest.name == "digits":
        from calibration.dataset import split_rows
        from calibration.digits import compose_digits

        drawn = compose_digits(seed + 1, {"fit": 1, "tune": 1, "certify": 1, "test": count})
        return split_rows(drawn, "test").round(DIGITS)
    rng = np.random.default_rng(seed)
    examples = [entry["row"] for entry in json.loads(bundle.files.get(EXAMPLES, b"[]"))]
    if manifest.preprocessing.kind != "numbers":
        if not examples:
            raise SystemExit(f"{bundle.path} has no {EXAMPLES}, expected one: its rows are sent")
        return _taken(raw_rows(examples, manifest), rng.integers(0, len(examples), count).tolist())
    shape = [size or 1 for size in manifest.inputs[0].row_shape]
    drawn = rng.normal(size=(count, *shape))
    if examples:
        drawn = np.array(examples)[rng.integers(0, len(examples), count)] + NOISE * drawn
    return drawn.round(DIGITS).astype(np.float32)


def _taken(rows: RawRows, places: Sequence[int]) -> RawRows:
    if isinstance(rows, np.ndarray):
        return rows[list(places)]
    return [rows[place] for place in places]  # type: ignore[return-value]  # of one kind
