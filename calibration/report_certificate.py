"""Tables of the certificate: what is promised, and label by label."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calibration.report_tables import Table, folded, number

if TYPE_CHECKING:
    from models.manifest import Manifest

GUARANTEES = {
    "set-agreement": "rows with another label set",
    "hamming": "labels decided otherwise, per row",
    "sample-f1": "1 - F1 of a row's label set",
    "micro-f1": "1 - micro-F1",
}


def promises_table(manifest: Manifest) -> Table:
    """Every promise with its loss on the certify split."""
    certificate = manifest.certificate
    rows = tuple(
        (
            promise.guarantee,
            GUARANTEES[promise.guarantee],
            "the full model" if promise.against == "model" else "labels (regret to full depth)",
            _level(promise.epsilon),
            number(promise.mean_loss),
            f"{promise.p_value:.3g}",
        )
        for promise in certificate.promises
    )
    heads = ("guarantee", "loss", "against", "epsilon", "mean loss", "p-value")
    caption = (
        f"Promises on {certificate.rows:,} rows of the certify split; delta is "
        f"{_level(certificate.delta)} for all together."
    )
    return Table(caption, heads, 3, rows)


def floor_table(manifest: Manifest) -> Table | None:
    """Labels one by one, those without a promise first; None where labels were not promised."""
    floor = manifest.certificate.label_floor
    if not floor:
        return None
    ordered = sorted(floor, key=lambda label: label.mean_loss is not None)
    rows = tuple(
        (
            label.label,
            "no promise: too few positives"
            if label.positives < label.needed
            else "no promise"
            if label.mean_loss is None
            else "promised",
            f"{label.positives:,}",
            f"{label.needed:,}",
            number(label.mean_loss),
        )
        for label in ordered
    )
    heads = ("label", "promise", "positives expected", "needed", "positives lost (share)")
    epsilon = manifest.certificate.label_epsilon
    most = "" if epsilon is None else f", each at most {_level(epsilon)} of its positives lost"
    caption = f"Labels on the certify split{most}."
    return folded(caption, heads, 2, rows)


def _level(level: float) -> str:
    """As the user gave it, e.g. `2%` or `0.5%`."""
    return f"{100 * level:g}%"
