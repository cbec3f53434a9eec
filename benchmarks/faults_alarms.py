"""False alarms of the monitor: streams of rows over which its promise holds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from checked_rows import CheckedRows
from faults_site import Finding, Plan, Skipped
from scipy.stats import binomtest
from soak_oracle import Oracle, draw_pool

from models.bundle import Bundle
from models.live_reference import Limit, read_reference
from models.manifest import Manifest
from models.set_losses import set_loss
from service.evidence import Evidence

ALPHA = 0.01
POOLS = 3
"""Each composed with a seed of its own."""
PROGRESS = 20

Sets = tuple[np.ndarray, np.ndarray]
"""Label sets of rows as the policy answers and at full depth, bool (n, L) each."""


def false_alarms(bundle: Bundle, rows: CheckedRows, plan: Plan, folder: Path) -> Finding:
    """Streams drawn from rows like the certify split, and from rows that lose just what they may.

    The answers are computed once; streams are drawn from them with replacement.
    """
    reference = read_reference(bundle.files)
    if not reference or not reference.limits:
        raise Skipped("needs a bundle whose promises the monitor watches")
    early, full = like_certify(bundle, plan.pool)
    losses = [set_loss(limit.guarantee, early, full) for limit in reference.limits]
    means = [float(loss.mean()) for loss in losses]
    allowed = [limit.mean_loss for limit in reference.limits]
    if any(mean > most for mean, most in zip(means, allowed, strict=True)):
        raise Skipped(f"needs rows that keep the promises: they lose {means} of {allowed}")
    random = np.random.default_rng(plan.streams)
    finding = Finding([f"rows like the certify split lose {means[0]:.4f} of {allowed[0]:g}"])

    def drawn() -> np.ndarray:
        return random.integers(0, len(early), plan.stream_rows)

    finding.add(_alarms("of them", drawn, (early, full), reference.limits, bundle.manifest, plan))
    if len(losses) == 1:
        lost, kept = np.flatnonzero(losses[0]), np.flatnonzero(losses[0] == 0)
        share = allowed[0] * len(lost) / losses[0].sum()

        def edge() -> np.ndarray:
            loses = random.random(plan.stream_rows) < share
            return np.where(loses, random.choice(lost, len(loses)), random.choice(kept, len(loses)))

        sets = early, full
        finding.add(_alarms("at the limit", edge, sets, reference.limits, bundle.manifest, plan))
    return finding


def like_certify(bundle: Bundle, rows: int) -> Sets:
    """The label sets of rows of the test split, drawn with other seeds than the bundle's."""
    parts = [
        label_sets(oracle) for seed in range(POOLS) for oracle in draw_pool([bundle], rows, seed)[1]
    ]
    return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])


def label_sets(oracle: Oracle) -> Sets:
    """As the policy answers, and at full depth."""
    places = np.arange(len(oracle.everywhere[0]))
    early = oracle.answers_at(oracle.exits_of("certified", None), places).labels
    return early, oracle.everywhere[-1].labels


def _alarms(
    which: str,
    draw: Callable[[], np.ndarray],
    sets: Sets,
    limits: Sequence[Limit],
    manifest: Manifest,
    plan: Plan,
) -> Finding:
    """How many streams, each of rows at the places that `draw` gives, raise the alarm."""
    alarms = 0
    for number in range(plan.streams):
        if number % PROGRESS == 0:
            print(f"  stream {number} of {plan.streams} {which}", flush=True)
        alarms += any(value >= 1 / ALPHA for value in _evidence(draw(), sets, limits, manifest))
    interval = binomtest(alarms, plan.streams).proportion_ci()
    finding = Finding()
    finding.figures.append(
        f"{alarms} of {plan.streams} streams of {plan.stream_rows} rows {which} raise the alarm "
        f"({interval.low:.1%} to {interval.high:.1%}; promised: at most {ALPHA:.0%})"
    )
    finding.expect(interval.low <= ALPHA, f"{alarms} of {plan.streams} false alarms {which}")
    return finding


def _evidence(
    places: np.ndarray, sets: Sets, limits: Sequence[Limit], manifest: Manifest
) -> Iterator[float]:
    """The e-value after every row of a stream."""
    evidence = Evidence(limits, manifest)
    early, full = sets
    for place in places.tolist():
        evidence.see(early[place], full[place])
        yield evidence.value
