"""False alarms of the monitor: streams of rows over which its promise holds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from checked_rows import CheckedRows
from faults_site import Finding, Plan, Skipped
from scipy.stats import binom, binomtest
from soak_oracle import Oracle, draw_pool

from models.bundle import Bundle
from models.live_reference import Limit, read_reference
from models.manifest import Manifest
from models.set_losses import set_loss
from service.evidence import Evidence

ALPHA, LEVEL = 0.01, 0.975
"""Of the monitor; and what chance keeps to where rows lose all that they may."""
POOLS = 3
"""Each composed with a seed of its own."""
PROGRESS = 20

Draw = Callable[[], np.ndarray]
"""Gives the places of a stream's rows among those that are known: int (n,)."""


@dataclass(frozen=True)
class Known:
    """Rows of one bundle whose answers were computed once.

    early, full : label sets as the policy answers and at full depth, bool (n, L)
    limit : what the monitor watches
    """

    early: np.ndarray
    full: np.ndarray
    limit: Limit
    manifest: Manifest

    @property
    def losses(self) -> np.ndarray:
        """Float (n,)."""
        return set_loss(self.limit.guarantee, self.early, self.full)

    def alarms(self, draw: Draw, plan: Plan) -> int:
        """How many streams raise the alarm."""
        found = 0
        for number in range(plan.streams):
            if number % PROGRESS == 0:
                print(f"  stream {number} of {plan.streams}", flush=True)
            found += any(value >= 1 / ALPHA for value in self._evidence(draw()))
        return found

    def _evidence(self, places: np.ndarray) -> Iterator[float]:
        """The e-value after every row of a stream."""
        evidence = Evidence([self.limit], self.manifest)
        for place in places.tolist():
            evidence.see(self.early[place], self.full[place])
            yield evidence.value


def false_alarms(bundle: Bundle, rows: CheckedRows, plan: Plan, folder: Path) -> Finding:
    """Streams drawn from rows like the certify split, and from rows that lose all that they may."""
    known = like_certify(bundle, plan.pool)
    losses, most = known.losses, known.limit.mean_loss
    lost, kept = np.flatnonzero(losses), np.flatnonzero(losses == 0)
    if not 0 < losses.mean() <= most:
        raise Skipped(f"needs rows that lose something, but at most {most}: {losses.mean()} here")
    random = np.random.default_rng(plan.streams)

    def alike() -> np.ndarray:
        return random.integers(0, len(losses), plan.stream_rows)

    def at_the_limit() -> np.ndarray:
        loses = random.random(plan.stream_rows) < most / losses[lost].mean()
        return np.where(loses, random.choice(lost, len(loses)), random.choice(kept, len(loses)))

    finding = Finding([f"{len(losses)} rows like the certify split lose {losses.mean():.4f}"])
    by_chance = int(binom.ppf(LEVEL, plan.streams, ALPHA))
    finding.add(_told(known.alarms(alike, plan), int(ALPHA * plan.streams), "of them", plan))
    which = f"that lose the {most:g} promised"
    finding.add(_told(known.alarms(at_the_limit, plan), by_chance, which, plan))
    return finding


def like_certify(bundle: Bundle, rows: int) -> Known:
    """Rows of the test split, drawn with other seeds than the bundle's; `rows` with each."""
    pools = [draw_pool([bundle], rows, seed) for seed in range(POOLS)]
    sets = [label_sets(oracle) for _, (oracle,) in pools]
    early, full = (np.concatenate(parts) for parts in zip(*sets, strict=True))
    return Known(early, full, watched_limit(bundle), bundle.manifest)


def watched_limit(bundle: Bundle) -> Limit:
    """What the monitor holds live rows against.

    Raises
    ------
    Skipped
        When it is not just one promise.
    """
    reference = read_reference(bundle.files)
    if not reference or len(reference.limits) != 1:
        raise Skipped("needs a bundle with one promise that the monitor watches")
    return reference.limits[0]


def label_sets(oracle: Oracle) -> tuple[np.ndarray, np.ndarray]:
    """As the policy answers and at full depth, bool (n, L) each."""
    places = np.arange(len(oracle.everywhere[0]))
    early = oracle.answers_at(oracle.exits_of("certified", None), places).labels
    return early, oracle.everywhere[-1].labels


def _told(alarms: int, most: int, which: str, plan: Plan) -> Finding:
    interval = binomtest(alarms, plan.streams).proportion_ci()
    finding = Finding()
    finding.figures.append(
        f"alarms in {alarms} of {plan.streams} streams of {plan.stream_rows} rows {which} "
        f"({interval.low:.1%} to {interval.high:.1%})"
    )
    finding.expect(alarms <= most, f"{alarms} of {plan.streams} false alarms over rows {which}")
    return finding
