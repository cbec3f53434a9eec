"""The plan in tables and sentences: does early exit pay here, exit by exit and at all?"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from calibration.costs import time_until
from calibration.plan import BatchPlan, Payoff, batch_plans, is_truncated, recorded_traffic
from calibration.quality_curves import STATIC
from calibration.report import LAYER_WIDTH
from models.encoding import BLANK_SIZE

if TYPE_CHECKING:
    from rich.table import Table

    from models.manifest import Decision, Manifest
    from models.measurements import Costs, QualityPoint


HARDLY = 0.05  # of the time; less is within what machines differ by from day to day


@dataclass(frozen=True)
class PlannedExit:
    """One exit under the deployed policy; shares are of all rows of the test split."""

    exit: int
    layer: str
    reaching: float
    leaving: float


@dataclass(frozen=True)
class Truncation:
    """The model cut off behind a layer, the cheapest that is as good as the policy.

    layer : its last one; None where it is not recorded
    time : of a row as a share of the whole model's: with its exit, where the bundle has one there,
        else without a head and as calibration measured it
    full_depth : whether that is no truncation at all
    """

    layer: str | None
    time: float
    micro_f1: float
    set_agreement: float
    full_depth: bool


@dataclass(frozen=True)
class Plan:
    """All that is to be said; the order of `batches` is ascending."""

    name: str
    machine: str
    remeasured: bool
    certified: bool
    exits: tuple[PlannedExit, ...]
    batches: tuple[BatchPlan, ...]
    policy_micro_f1: float
    policy_set_agreement: float
    truncation: Truncation | None
    refused: tuple[Decision, ...]
    notes: tuple[str, ...]


def plan_of(manifest: Manifest, remeasured: Costs | None = None) -> Plan:
    """The plan of a bundle, by its recorded traffic.

    Parameters
    ----------
    remeasured : costs on the machine that asks; None: those of the machine that calibrated
    """
    costs = remeasured or manifest.costs
    traffic = recorded_traffic(manifest.test.exits)
    shares = zip(traffic.reaching.tolist(), traffic.leaving.tolist(), strict=True)
    return Plan(
        name=manifest.name,
        machine=costs.machine,
        remeasured=remeasured is not None,
        certified=manifest.certificate.certified,
        exits=tuple(
            PlannedExit(exit_.number, exit_.layer, reaching, leaving)
            for exit_, (reaching, leaving) in zip(manifest.exits, shares, strict=True)
        ),
        batches=batch_plans(traffic, costs),
        policy_micro_f1=manifest.test.policy.micro_f1.policy,
        policy_set_agreement=manifest.test.policy.set_agreement,
        truncation=_truncation(manifest, costs),
        refused=tuple(decision for decision in manifest.placement if decision.exit is None),
        notes=_notes(manifest, remeasured),
    )


def plan_table(plan: Plan) -> Table:
    """One line per exit, at batch 1 (or the smallest measured) and at the largest batch."""
    from rich import box
    from rich.table import Table

    ends = [plan.batches[0], plan.batches[-1]] if len(plan.batches) > 1 else [plan.batches[0]]
    table = Table(
        title=f"{plan.name}: which exits pay",
        caption="ms per row of the whole traffic; cost: head, gathering, splitting; saving: the "
        f"way to the next exit;\nrows leave as on the test split; {plan.machine}",
        box=box.SIMPLE_HEAD,
        padding=0,
    )
    table.add_column("exit", justify="right")
    layers = max(len(exit_.layer[:LAYER_WIDTH]) for exit_ in plan.exits)
    table.add_column("layer", overflow="fold", min_width=layers)
    for heading in ("reach-\ning", "leav-\ning"):
        table.add_column(heading, justify="right", no_wrap=True)
    for end in ends:
        for heading in ("cost", "saving", "pays"):
            table.add_column(f"{heading}\nb {end.rows}", justify="right", no_wrap=True)
    for number, exit_ in enumerate(plan.exits):
        cells = [str(exit_.exit), exit_.layer, f"{exit_.reaching:.1%}", f"{exit_.leaving:.1%}"]
        for end in ends:
            cells += _payoff_cells(end.exits[number]) if number < len(end.exits) else ["-"] * 3
        table.add_row(*cells)
    return table


def plan_sentences(plan: Plan) -> list[str]:
    """The times by batch, whether it is worth it, the plain alternative, and what was refused."""
    return [
        *plan.notes,
        *(
            f"At batch {batch.rows} a row takes {batch.policy:.4f} ms under the policy and "
            f"{batch.whole:.4f} ms in the model without exits: {batch.ratio:.0%} of it."
            for batch in plan.batches
        ),
        verdict(plan),
        _alternative(plan),
        *(f"No exit at {decision.layer}: {decision.reason}." for decision in plan.refused),
    ]


def verdict(plan: Plan) -> str:
    """Whether early exit is worth it at all, by the time of a row."""
    pays = [batch.rows for batch in plan.batches if batch.ratio < 1]
    sizes = [batch.rows for batch in plan.batches]
    where = "on this machine" if plan.remeasured else "on the machine that calibrated"
    most = 1 - min(batch.ratio for batch in plan.batches)
    if not pays:
        return f"Early exit is not worth it {where}: serve the model as it is."
    if most < HARDLY:
        return f"Early exit hardly pays {where}: it saves at most {most:.1%} of the time."
    if pays == sizes:
        return f"Early exit is worth it {where}, at every measured batch."
    if pays == sizes[-len(pays) :]:
        return f"Early exit is worth it {where} from batch {pays[0]} on; below, it costs time."
    listed = ", ".join(map(str, pays))
    return f"Early exit is worth it {where} at batch {listed}; at the others it costs time."


def plan_document(plan: Plan) -> dict[str, Any]:
    """The same facts for a program."""
    return {
        **asdict(plan),
        "batches": [
            {
                **asdict(batch),
                "ratio": batch.ratio,
                "exits": [{**asdict(payoff), "pays": payoff.pays} for payoff in batch.exits],
            }
            for batch in plan.batches
        ],
        "refused": [decision.model_dump() for decision in plan.refused],
        "worth_it": [batch.rows for batch in plan.batches if batch.ratio < 1],
        "verdict": verdict(plan),
    }


def _payoff_cells(payoff: Payoff) -> list[str]:
    return [f"{payoff.cost:.4f}", f"{payoff.saving:.4f}", "yes" if payoff.pays else "no"]


def _truncation(manifest: Manifest, costs: Costs) -> Truncation | None:
    """The cheapest layer at which all rows might stop, with the policy's micro-F1 or more."""
    points = [p for c in manifest.test.curves if c.method == STATIC for p in c.points]
    wanted = manifest.test.policy.micro_f1.policy
    ordered: list[QualityPoint] = sorted(points, key=lambda point: point.time)
    good = [k for k, point in enumerate(ordered) if point.micro_f1 >= wanted]
    if not good:
        return None
    names = [layer.layer for layer in manifest.profile.layers]
    # one point per candidate layer, and time grows with depth
    layer = names[good[0]] if len(names) == len(ordered) else None
    until = {e.layer: t for e, t in zip(manifest.exits, time_until(costs), strict=True)}
    point = ordered[good[0]]
    return Truncation(
        layer=layer,
        time=float(until.get(layer or "", point.time)),
        micro_f1=point.micro_f1,
        set_agreement=point.set_agreement,
        full_depth=good[0] == len(ordered) - 1,
    )


def _alternative(plan: Plan) -> str:
    """Simple truncation beside the policy."""
    cut, ratio = plan.truncation, plan.batches[-1].ratio
    wanted = f"the policy's micro-F1 of {plan.policy_micro_f1:.4f} on the test split"
    if cut is None:
        return f"No model that always stops at one layer reaches {wanted}."
    if cut.full_depth:
        return f"Of the models that always stop at one layer, only the whole one reaches {wanted}."
    where = f"at {cut.layer}" if cut.layer else "at one layer"
    return (
        f"The plain alternative: a model that always stops {where} reaches {wanted} with "
        f"{cut.micro_f1:.4f}, in {cut.time:.0%} of the time of the whole model (the policy: "
        f"{ratio:.0%} at batch {plan.batches[-1].rows}); {cut.set_agreement:.1%} of its label sets "
        f"are the full model's (the policy: {plan.policy_set_agreement:.1%}). It carries no "
        "promise: its layer was picked on these very rows."
    )


def _notes(manifest: Manifest, remeasured: Costs | None) -> tuple[str, ...]:
    notes = []
    if manifest.depth == 1:
        notes.append("The bundle has no early exit.")
    elif not manifest.certificate.certified:
        notes.append("No early exit is certified: the deployed policy runs every row to the end.")
    if remeasured is None:
        notes.append(
            "Times are those of the machine that calibrated; --remeasure takes them on this one."
        )
        return tuple(notes)
    if any(size is None for spec in manifest.inputs for size in spec.row_shape):
        notes.append(
            f"Times were taken on made-up rows; sizes that vary, as with tokens, were {BLANK_SIZE}."
        )
    else:
        notes.append("Times were taken on made-up rows.")
    if is_truncated(manifest.costs):
        factors = [
            now / then if then else 1.0
            for now, then in zip(
                remeasured.beyond_milliseconds, manifest.costs.beyond_milliseconds, strict=False
            )
        ]
        notes.append(
            "The bundle does not hold the layers behind its last exit: their recorded time, and "
            "the whole model's, were changed by the same factor as its own stages "
            f"({min(factors):.2f} to {max(factors):.2f})."
        )
    return tuple(notes)
