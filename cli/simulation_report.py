"""A simulation in a table and sentences, and as a document for programs."""

from __future__ import annotations

from dataclasses import asdict
from math import inf, isfinite
from typing import TYPE_CHECKING, Any

from cli.simulation import MONOLITH, Question, Side

if TYPE_CHECKING:
    from rich.table import Table

    from service.simulated_outcome import Outcome, Percentiles


def table(question: Question, sides: list[Side]) -> Table:
    """A line for every mode, and below it one for each of its exits."""
    from rich import box
    from rich.table import Table

    load = question.load
    sizes = sorted(set(load.rows_per_request))
    drawn = f"{sizes[0]}" if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
    shown = Table(
        title=f"{question.name}: {load.rate:,.10g} rows/s, {drawn} per request",
        caption="p50, p95, p99: ms from arrival to answer; rows, fill: of a stage's batches;\n"
        "load: share of the devices' time that the work takes in full batches;\n"
        f"{question.seconds:.10g} s simulated, seed {question.seed}; {question.costs.machine}",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    shown.add_column("")
    for heading in (
        "devices",
        "load",
        "refused",
        "rows/s",
        "leaving",
        "p50",
        "p95",
        "p99",
        "rows",
        "fill",
    ):
        shown.add_column(heading, justify="right", no_wrap=True)
    for side in sides:
        if side.outcome is None:
            shown.add_row(side.mode, "-")
            continue
        for cells in _lines(side, side.outcome, len(sizes) > 1 or sizes[0] > 1):
            shown.add_row(*cells)
    return shown


def sentences(question: Question, sides: list[Side]) -> list[str]:
    """Whether the objective is met, with how many devices, and what was left out."""
    told = [_verdict(question, side) for side in sides]
    needed = [side.outcome.lanes for side in sides if side.outcome]
    if question.devices is None and len(needed) == 2:
        told.append(_saving(sides[0].mode, *needed))
    costs = question.costs
    told.append(
        f"Costs of the stages: {costs.source or 'as given'}; and {costs.dispatch_milliseconds:g} "
        "ms for dispatching a batch."
    )
    if costs.assumed:
        told.append(f"Assumed: {costs.assumed}.")
    told.append(
        "Left out: the network, decoding inputs, encoding answers, and what devices in one machine "
        "take from each other."
    )
    return told


def document(question: Question, sides: list[Side]) -> dict[str, Any]:
    """The same facts for a program; null where there is nothing to say."""
    bounds = question.bounds
    return {
        "name": question.name,
        "costs": question.costs.model_dump(mode="json"),
        "rate": question.load.rate,
        "rows_per_request": list(question.load.rows_per_request),
        "exit_mix": list(question.load.mix),
        "seconds": question.seconds,
        "seed": question.seed,
        "slo_ms": _number(question.slo),
        "deadline_ms": _number(bounds.deadline),
        "max_queue_rows": bounds.max_queue_rows,
        "max_wait_ms": bounds.max_wait,
        "modes": [_mode_document(question, side) for side in sides],
    }


def counted(devices: int) -> str:
    """In words."""
    return "1 device" if devices == 1 else f"{devices} devices"


def _lines(side: Side, outcome: Outcome, many: bool) -> list[list[str]]:
    stages = list(enumerate(side.exits, start=1))
    batches = {
        stage: [_cell(outcome.runs.mean_rows(stage), ".1f"), _cell(outcome.runs.fill(stage), ".0%")]
        for stage, _ in stages
    }
    facts = [
        side.mode,
        str(outcome.lanes),
        f"{side.load:.0%}",
        f"{outcome.refused_share:.1%}",
        f"{outcome.rows_per_second:,.0f}",
    ]
    only = batches[1] if len(stages) == 1 else []
    lines = [[*facts, "", *_percentile_cells(outcome.rows), *only]]
    if many:
        lines.append([" requests", *[""] * 5, *_percentile_cells(outcome.requests)])
    for stage, number in stages if len(stages) > 1 else []:
        leaving = f"{outcome.share_at(stage):.1%}"
        latency = _percentile_cells(outcome.rows_at(stage))
        lines.append([f" exit {number}", *[""] * 4, leaving, *latency, *batches[stage]])
    return lines


def _percentile_cells(percentiles: Percentiles) -> list[str]:
    return [_cell(value, ".1f" if value >= 10 else ".2f") for value in asdict(percentiles).values()]


def _cell(value: float, form: str) -> str:
    return format(value, form) if isfinite(value) else "-"


def _verdict(question: Question, side: Side) -> str:
    if question.slo == inf and side.outcome:
        lost = ", ".join(_losses(side.outcome)) or "every row is answered, at its own exit"
        return f"{side.mode} with {counted(side.outcome.lanes)}: {lost}."
    wanted = f"a p99 of {question.slo:g} ms"
    if side.outcome is None:
        if side.least > min(question.slo, question.bounds.deadline):
            return (
                f"No number of devices gives {side.mode} {wanted}: of requests that never wait, "
                f"every hundredth takes {side.least:.2f} ms or more."
            )
        return f"Not even a device for every request gives {side.mode} {wanted}."
    found = f"{side.outcome.requests.p99:.2f} ms"
    if question.devices is None:
        devices = counted(side.outcome.lanes)
        return f"{side.mode} needs {devices} for {wanted}, and then has {found}."
    if side.met:
        return f"{side.mode} gives {wanted} with {counted(side.outcome.lanes)}: it has {found}."
    reasons = [f"{found} for those answered", *_losses(side.outcome)]
    return (
        f"{side.mode} does not give {wanted} with {counted(side.outcome.lanes)}: "
        f"{', '.join(reasons)}."
    )


def _saving(mode: str, with_exits: int, without: int) -> str:
    if with_exits == without:
        return f"Exits save no device here: {counted(without)} either way."
    if with_exits > without:
        return f"Exits cost {counted(with_exits - without)} more than {MONOLITH}'s {without}."
    return f"Exits save {without - with_exits} of {counted(without)}."


def _losses(outcome: Outcome) -> list[str]:
    shares = {
        "refused": outcome.refused_share,
        "too late for any answer": outcome.failed_share,
        "answered at an earlier exit to be in time": outcome.cut_short_share,
    }
    return [f"{share:.1%} of the rows {what}" for what, share in shares.items() if share]


def _mode_document(question: Question, side: Side) -> dict[str, Any]:
    facts: dict[str, Any] = {"mode": side.mode, "least_p99_ms": _number(side.least)}
    facts["offered_devices"] = side.offered
    if question.slo < inf:
        facts["met"] = side.met
    outcome = side.outcome
    if outcome is None:
        return {**facts, "devices": None}
    return {
        **facts,
        "devices": outcome.lanes,
        "rows_per_second": outcome.rows_per_second,
        "load": side.load,
        "utilisation": outcome.utilisation,
        "refused": outcome.refused_share,
        "failed": outcome.failed_share,
        "cut_short": outcome.cut_short_share,
        "rows": _percentile_document(outcome.rows),
        "requests": _percentile_document(outcome.requests),
        "exits": [
            {
                "exit": number,
                "leaving": _number(outcome.share_at(stage)),
                **_percentile_document(outcome.rows_at(stage)),
                "batch_rows": _number(outcome.runs.mean_rows(stage)),
                "batch_fill": _number(outcome.runs.fill(stage)),
            }
            for stage, number in enumerate(side.exits, start=1)
        ],
    }


def _percentile_document(percentiles: Percentiles) -> dict[str, float | None]:
    return {f"{name}_ms": _number(value) for name, value in asdict(percentiles).items()}


def _number(value: float) -> float | None:
    return value if isfinite(value) else None
