"""The side-by-side comparison as tables and targets."""

from __future__ import annotations

import numpy as np
from engine_table import Table, Target, at_least, at_most, spread
from serving_contenders import Contender, Way
from serving_plan import TARGET_LOAD
from serving_rounds import (
    LOADS,
    PEER_KEY,
    QUICK_PEER_KEY,
    Measured,
    Outcome,
)

from calibration.quality import micro_f1
from models.set_losses import sample_f1

OURS, STATIC = "a", "d"
LEAST_OF_FULL, LEAST_OF_STATIC = 2.0, 1.15
MOST_P50, MOST_P99 = 0.45, 0.8


def serving_tables(outcome: Outcome, size: int) -> list[Table]:
    """All of a case; `size` are the rows of the larger requests."""
    return [_rates(outcome, size), _quality(outcome), _latencies(outcome), _sweeps(outcome, size)]


def serving_targets(outcome: Outcome) -> list[Target]:
    """Against what was asked for, over JSON, which all have."""
    name = outcome.case.name
    if not outcome.case.asked:
        return []
    ours, full = _of(outcome, OURS), _of(outcome, PEER_KEY)
    quick = outcome.measured.get((QUICK_PEER_KEY, "JSON"), full)
    gained = f1_of(outcome, OURS) - f1_of(outcome, PEER_KEY)
    return [
        at_least(f"{name}: rows per second, (a) over (c)", ratio(ours, full), LEAST_OF_FULL),
        at_least(
            f"{name}: rows per second, (a) over (d)",
            ratio(ours, _of(outcome, STATIC)),
            LEAST_OF_STATIC,
        ),
        at_least(f"{name}: micro-F1, (a) less (c)", [gained], 0.0),
        at_most(
            f"{name}: p50 at {TARGET_LOAD:.0%} load, (a) over the quicker (c)",
            np.fmax(
                latency_ratio(ours, full, TARGET_LOAD, "p50"),
                latency_ratio(ours, quick, TARGET_LOAD, "p50"),
            ),
            MOST_P50,
        ),
        at_most(
            f"{name}: p99 at {TARGET_LOAD:.0%} load, (a) over the quicker (c)",
            np.fmax(
                latency_ratio(ours, full, TARGET_LOAD, "p99"),
                latency_ratio(ours, quick, TARGET_LOAD, "p99"),
            ),
            MOST_P99,
        ),
    ]


def ratio(ours: Measured, theirs: Measured) -> np.ndarray:
    """Saturated rows per second with larger requests, round by round."""
    found: np.ndarray = np.array(ours.rate) / np.array(theirs.rate)
    return found


def latency_ratio(ours: Measured, theirs: Measured, load: float, share: str) -> np.ndarray:
    """Of one percentile, round by round; empty where one has none."""
    one, other = (
        np.array([getattr(latency, share) for latency in measured.latencies.get(load, [])])
        for measured in (ours, theirs)
    )
    with np.errstate(invalid="ignore", divide="ignore"):
        return one / other if len(one) == len(other) else np.zeros(0)


def f1_of(outcome: Outcome, key: str) -> float:
    """Micro-F1 of a contender's answers to the pool."""
    return micro_f1(_of(outcome, key).sets, outcome.case.truth)


def _of(outcome: Outcome, key: str) -> Measured:
    return outcome.measured[key, "JSON"]


def _lines(outcome: Outcome) -> list[tuple[Contender, Way, Measured]]:
    named = {contender.key: contender for contender in outcome.contenders}
    return [(named[key], way, found) for (key, way), found in outcome.measured.items()]


def _rates(outcome: Outcome, size: int) -> Table:
    full = _of(outcome, PEER_KEY)
    rows = []
    for contender, way, found in _lines(outcome):
        single = np.array(found.single) / np.array(full.single)
        rows.append(
            (
                f"{contender.key} {contender.name}",
                way,
                spread(found.rate, 0),
                spread(ratio(found, full), 2),
                spread(found.single, 0),
                spread(single, 2),
                spread(found.cpu, 2),
                spread(found.mib, 0),
                f"{min(found.answered):.1%}",
            )
        )
    return Table(
        f"{outcome.case.name}: saturated",
        f"Rows per second with requests of {size} rows and of single rows, by clients that wait; "
        "over (c), which has JSON alone; seconds of CPU of the server per 1,000 rows; MiB of its "
        "own.",
        (
            "who",
            "door",
            "rows/s",
            "over (c)",
            "rows/s, single",
            "over (c)",
            "CPU s",
            "MiB",
            "answered",
        ),
        rows,
    )


def _quality(outcome: Outcome) -> Table:
    truth, full = outcome.case.truth, _of(outcome, PEER_KEY).sets
    rows = [
        (
            f"{contender.key} {contender.name}",
            way,
            f"{micro_f1(found.sets, truth):.4f}",
            f"{sample_f1(found.sets, truth).mean():.4f}",
            f"{(found.sets == full).all(axis=1).mean():.2%}",
        )
        for contender, way, found in _lines(outcome)
    ]
    return Table(
        f"{outcome.case.name}: quality",
        f"Of the answers to the same {len(truth):,} test rows; sets that are those of (c).",
        ("who", "door", "micro-F1", "sample-F1", "same sets"),
        rows,
    )


def _latencies(outcome: Outcome) -> Table:
    full = _of(outcome, PEER_KEY)
    rows = []
    for load in LOADS:
        for contender, way, found in _lines(outcome):
            if load not in found.latencies:
                continue
            columns = [
                [getattr(one, share) for one in found.latencies[load]]
                for share in ("p50", "p95", "p99")
            ]
            rows.append(
                (
                    f"{load:.0%}",
                    f"{contender.key} {contender.name}",
                    way,
                    *(spread(column, 1) for column in columns),
                    spread(latency_ratio(found, full, load, "p50"), 2),
                    spread(latency_ratio(found, full, load, "p99"), 2),
                    f"{min(one.answered for one in found.latencies[load]):.1%}",
                )
            )
    return Table(
        f"{outcome.case.name}: open loop",
        "Milliseconds from when a single-row request was due to its answer, at random times "
        f"(Poisson), at shares of the {outcome.capacity:.0f} per second that (c) answers; before "
        "the servers were saturated.",
        ("load", "who", "door", "p50", "p95", "p99", "p50 over (c)", "p99 over (c)", "answered"),
        rows,
    )


def _sweeps(outcome: Outcome, size: int) -> Table:
    rows = []
    for contender in outcome.contenders:
        for batching, tried in outcome.swept.get(contender.key, {}).items():
            users = [
                f"({one.key})"
                for one in outcome.contenders
                if (one.name, one.batching) == (contender.name, batching)
            ]
            rows.append(
                (
                    f"{contender.key} {contender.name}",
                    str(batching),
                    f"{tried.single:.0f}",
                    f"{tried.larger:.0f}",
                    f"{tried.share:.1%}",
                    "-" if np.isinf(tried.p50) else f"{tried.p50:.1f}",
                    ", ".join(users),
                )
            )
    return Table(
        f"{outcome.case.name}: the peers' settings",
        f"Rows per second when saturated with single-row requests and with {size} rows a request, "
        "by the most rows of a batch, and by the milliseconds that BentoML lets a request take, or "
        "that MLServer waits for others; chosen by the geometric mean of both. p50 in milliseconds "
        f"of an open loop of single rows at {TARGET_LOAD:.0%} of what (c) answers of them.",
        ("who", "batching", "single", f"{size} a request", "answered", "p50", "chosen for"),
        rows,
    )
