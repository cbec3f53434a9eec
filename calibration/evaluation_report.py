"""Shows an evaluation: a table, sentences, and JSON."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from calibration.report import exit_table

if TYPE_CHECKING:
    from rich.table import Table

    from calibration.evaluation import Evaluation, PromiseCheck
    from models.manifest import Manifest

KNOWN = {
    "fit": "heads were trained on it, which flatters the quality",
    "tune": "thresholds were proposed on it, which flatters the quality",
    "certify": "the policy was certified on it, it says nothing new of the promises",
    "test": "its figures are in the manifest already",
}


def evaluation_document(manifest: Manifest, found: Evaluation) -> dict[str, Any]:
    """Everything as plain values, for JSON."""
    about = {"name": manifest.name, "digest": manifest.digest}
    measured = found.measured.model_dump(mode="json", exclude={"curves"})
    return {**about, **asdict(found), "measured": measured}


def evaluation_sentences(manifest: Manifest, found: Evaluation) -> Iterator[str]:
    """What the rows say of quality, time and promises, and warnings."""
    policy, reference = found.measured.policy, found.reference
    if reference == "last exit":
        yield (
            f"The bundle ends at {manifest.exits[-1].layer}: the full model is not in it, and the "
            "policy is compared with the bundle's last exit."
        )
    for name, quality in (
        ("micro-F1", policy.micro_f1),
        ("macro-F1", policy.macro_f1),
        ("mean average precision", policy.mean_average_precision),
    ):
        if quality is not None:
            change = quality.difference
            yield (
                f"{name}: {quality.policy:.4f} ({reference} {quality.full_depth:.4f}; difference "
                f"{change.low:+.4f} to {change.high:+.4f}, measured, not certified)"
            )
    yield (
        f"{policy.set_agreement:.2%} of label sets are the {reference}'s, and a row is "
        f"given {policy.computed_time:.0%} of the time of the model without exits "
        f"({policy.computed_time_single:.0%} at batch 1)."
    )
    if not manifest.certificate.certified:
        yield "Nothing is certified: the deployed policy runs every row to the end."
    yield from map(_check_sentence, found.promises)
    if found.skipped:
        yield f"Warning: {found.skipped} rows could not be answered and were left out."
    for name in found.known:
        yield f"Warning: these rows are, or hold, the bundle's {name} split: {KNOWN[name]}."


def _check_sentence(check: PromiseCheck) -> str:
    what = check.guarantee if check.label is None else f"label {check.label!r}"
    promise = f"{what} against the {check.against}: at most {check.epsilon:g} promised"
    if check.loss is None or check.p_value is None:
        why = "the full model is not in the bundle" if check.rows else "no row of these has it"
        return f"{promise}; cannot be checked, {why}."
    side = "within" if check.loss <= check.epsilon else "above"
    said = f"{promise}, {check.loss:.4f} found on {check.rows} rows, {side} it"
    if check.consistent:
        return f"{said}: consistent with the promise (p = {check.p_value:.2g})."
    return (
        f"{said}: evidence against the promise (p = {check.p_value:.2g}): calibrate again on rows "
        "like these."
    )


def evaluation_table(manifest: Manifest, found: Evaluation, source: str) -> Table:
    """One line per exit, measured on these rows."""
    table = exit_table(manifest.model_copy(update={"test": found.measured}))
    table.title = f"{manifest.name}: exits on {source} ({found.rows} rows)"
    return table
