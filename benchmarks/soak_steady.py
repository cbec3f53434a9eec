"""A server that is loaded for long: nearly as much as it can do, and more than that."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

import numpy as np
from soak_client import Outcome
from soak_load import Load, Tally, told
from soak_memory import Memory, watched_memory
from soak_site import Finding, Plan, Site, capacity

SHARE = 0.8
MOST_REFUSED = 0.001
MIB_PER_TEN_MINUTES = 1.0
SAMPLE_SECONDS, FEWEST_SECONDS = 2.0, 120.0

TIMES = 3.0
DEADLINE_MS, TOLERANCE_MS, REFUSAL_MS = 500.0, 100.0, 50.0
PROBE_RATE, PROBES_IN_A_ROW = 50.0, 10
RECOVERY_SECONDS = 2.0
NORMAL = 2.0
"""Times the 95th percentile of the probes before: more is not normal."""


async def soak(site: Site, plan: Plan) -> Finding:
    """Mixed requests for long: right answers, none lost, no growing memory."""
    tally = Tally()
    async with site.server() as server, site.load(server.http, server.grpc) as load:
        limit = await capacity(load, plan.capacity)
        rate, seconds = SHARE * limit, 60 * plan.soak
        print(f"soak: {limit:.0f} requests/s when clients wait, {rate:.0f}/s now", flush=True)
        async with (
            watched_memory(server.worker, SAMPLE_SECONDS) as memory,
            told("soak", tally, lambda: f", {memory.last:.0f} MiB"),
        ):
            await load.open(rate, seconds, tally)
        fallbacks = await asyncio.to_thread(server.metric, "offramp_fallbacks_total")
    return _soaked(tally, memory, seconds, limit, fallbacks)


def _soaked(
    tally: Tally, memory: Memory, seconds: float, limit: float, fallbacks: float
) -> Finding:
    wrong, lost, failed = map(tally.of, (Outcome.WRONG, Outcome.LOST, Outcome.FAILED))
    refused = tally.total - wrong - lost - failed - tally.of(Outcome.ANSWERED)
    half, most = tally.percentiles(Outcome.ANSWERED, 50, 99)
    return Finding(
        "soak",
        f"at {SHARE:.0%} of capacity with all doors and policies: 0 wrong answers, 0 lost, at most "
        f"{MOST_REFUSED:.1%} refused; memory grows by less than {MIB_PER_TEN_MINUTES:g} MiB in ten "
        "minutes",
        f"{tally.total:,} requests of {tally.rows:,} rows in {seconds / 60:.3g} minutes, "
        f"{tally.total / seconds:.0f}/s where {limit:.0f}/s were the capacity: {wrong} wrong, "
        f"{lost} lost, {failed} failed, {refused} refused; p50 {half:.1f} ms, p99 {most:.1f} ms; "
        f"memory {memory.last:.0f} MiB, {memory.slope:+.2f} MiB in ten minutes; the monitor fell "
        f"back {fallbacks:.0f} times",
        not wrong + lost + failed and tally.of(Outcome.ANSWERED) > 0,
        # a run of seconds says nothing about memory
        refused <= MOST_REFUSED * tally.total
        and (memory.slope < MIB_PER_TEN_MINUTES or seconds < FEWEST_SECONDS),
        tally,
    )


async def overload(site: Site, plan: Plan) -> Finding:
    """More rows than the stages can run: deadlines kept, quick refusals, and quick recovery."""
    return await _overload("overload", "a model with slow stages", site, plan)


async def overload_doors(site: Site, plan: Plan) -> Finding:
    """The same where the stages are quick, and reading requests is what takes the time."""
    return await _overload("overload of the doors", "a model with quick stages", site, plan)


async def _overload(test: str, model: str, site: Site, plan: Plan) -> Finding:
    tally = Tally()
    async with site.server() as server:
        async with site.load(server.http, server.grpc) as load:
            limit = await capacity(load, plan.capacity)
        async with (
            site.load(server.http, server.grpc, deadline_ms=DEADLINE_MS) as heavy,
            site.load(server.http, server.grpc, seed=1) as light,
        ):
            before = await probe(light, plan.probe)
            normal = NORMAL * float(np.percentile(before.milliseconds, 95))
            print(f"{test}: {limit:.0f} requests/s when clients wait", flush=True)
            async with told(test, tally):
                rush = asyncio.create_task(heavy.open(TIMES * limit, plan.overload, tally))
                await asyncio.sleep(plan.overload)
                after = await probe(light, plan.probe)
                await rush
    finding = _overloaded(tally, plan.overload, limit, after.recovery(normal))
    return replace(finding, test=test, expected=f"{model}, {finding.expected}")


def _overloaded(tally: Tally, seconds: float, limit: float, recovery: float) -> Finding:
    wrong, lost, failed = map(tally.of, (Outcome.WRONG, Outcome.LOST, Outcome.FAILED))
    turned_away = tally.times[Outcome.REFUSED] + tally.times[Outcome.NOT_TAKEN]
    half, most, last = np.percentile(turned_away or [np.nan], [50, 99, 100])
    answers = tally.times[Outcome.ANSWERED] + tally.times[Outcome.LATE]
    nearly_all, latest = np.percentile(answers or [np.nan], [99.9, 100])
    return Finding(
        "overload",
        f"at {TIMES:g} times the capacity, with deadlines of {DEADLINE_MS:.0f} ms: what is "
        f"accepted is answered within {DEADLINE_MS + TOLERANCE_MS:.0f} ms, the rest refused within "
        f"{REFUSAL_MS:.0f} ms (p99); normal again {RECOVERY_SECONDS:g} s after it ends",
        f"{tally.total:,} requests in {seconds:.0f} s, {tally.total / seconds:.0f}/s where "
        f"{limit:.0f}/s were the capacity: {tally.of(Outcome.ANSWERED):,} answered, "
        f"{tally.of(Outcome.LATE):,} told that the deadline has passed, after "
        f"{nearly_all:.0f} ms (p99.9), {latest:.0f} ms (most); "
        f"{tally.of(Outcome.REFUSED):,} refused and {tally.of(Outcome.NOT_TAKEN):,} not taken "
        f"after {half:.0f} ms (p50), {most:.0f} ms (p99), {last:.0f} ms (most); "
        f"{wrong} wrong, {lost} lost, {failed} failed; normal again "
        f"after {recovery:.1f} s",
        not wrong + lost + failed and tally.of(Outcome.ANSWERED) > 0,
        latest <= DEADLINE_MS + TOLERANCE_MS
        and most <= REFUSAL_MS
        and recovery <= RECOVERY_SECONDS,
        tally,
    )


class Probes:
    """A light stream of requests.

    sent : seconds since the stream began
    milliseconds : until each was answered; infinite where it was not
    """

    def __init__(self) -> None:
        self.sent: list[float] = []
        self.milliseconds: list[float] = []

    def recovery(self, normal: float) -> float:
        """Seconds until some answers in a row were as quick as normal; infinite without."""
        order = np.argsort(self.sent)
        quick = np.array(self.milliseconds)[order] <= normal
        for first in range(len(quick) - PROBES_IN_A_ROW + 1):
            if quick[first : first + PROBES_IN_A_ROW].all():
                return float(np.array(self.sent)[order][first])
        return float("inf")


async def probe(load: Load, seconds: float) -> Probes:
    """Send single requests at even times."""
    probes, begun = Probes(), time.perf_counter()

    async def ask(number: int) -> None:
        tally, sent = Tally(), time.perf_counter()
        outcome = await load.one(load.mix[number % len(load.mix)], tally)
        probes.sent.append(sent - begun)
        taken = (time.perf_counter() - sent) * 1000
        probes.milliseconds.append(taken if outcome == Outcome.ANSWERED else float("inf"))

    asking = []
    for number in range(int(PROBE_RATE * seconds)):
        await asyncio.sleep(max(0.0, begun + number / PROBE_RATE - time.perf_counter()))
        asking.append(asyncio.create_task(ask(number)))
    await asyncio.gather(*asking)
    return probes
