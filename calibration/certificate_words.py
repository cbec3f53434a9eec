"""The certificate in words: one paragraph that says what is promised, or why nothing is."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from calibration.guarantee import Guarantee, Guarantees
from calibration.p_values import betting_p_value, binomial_p_value
from models.manifest import LabelFloor

SHOWN = 10
MOST_TRIED = 200_000  # rows; beyond, the normal approximation is near enough

WORDS = {
    ("set-agreement", "model"): "at most {epsilon} of rows get a label set that differs from the "
    "full model's ({lost} of {rows} rows of the certify split did)",
    ("hamming", "model"): "at most {epsilon} of label decisions differ from the full model's (it "
    "was {mean:.4f} of them on {rows} rows of the certify split)",
    ("sample-f1", "model"): "the mean F1 of a row's label set against the full model's is at most "
    "{epsilon} below 1 (it was {mean:.4f} below on {rows} rows of the certify split)",
    ("micro-f1", "model"): "the micro-F1 of the label sets against the full model's is at most "
    "{epsilon} below 1 (it was {mean:.4f} below on {rows} rows of the certify split)",
    ("set-agreement", "labels"): "the share of rows with a wrong label set is at most {epsilon} "
    "above the full model's (it was {above} on {rows} rows of the certify split)",
    ("hamming", "labels"): "the share of wrong label decisions is at most {epsilon} above the full "
    "model's (it was {above} on {rows} rows of the certify split)",
    ("sample-f1", "labels"): "the mean F1 of a row's label set against the true one is at most "
    "{epsilon} below the full model's (it was {below} on {rows} rows of the certify split)",
    ("micro-f1", "labels"): "the micro-F1 against the true labels is at most {epsilon} below the "
    "full model's (it was {below} on {rows} rows of the certify split)",
}


def promise_sentence(
    guarantees: Guarantees, losses: Sequence[np.ndarray], floor: Sequence[LabelFloor]
) -> str:
    """All promises in one sentence, for rows drawn like the certify split.

    Parameters
    ----------
    losses : per promise, float (n,): the deployed policy's, whose mean is its loss
    floor : what is promised of single labels, if anything
    """
    parts = [
        WORDS[promise.loss, promise.against].format(
            epsilon=percent(promise.epsilon),
            lost=round(float(rows.sum())),
            rows=len(rows),
            mean=float(rows.mean()),
            above=_side(float(rows.mean())),
            below=_side(-float(rows.mean())),
        )
        for promise, rows in zip(guarantees.promises, losses, strict=True)
    ]
    parts += _labels(guarantees, floor)
    return (
        f"With probability at least {percent(1 - guarantees.delta)}, "
        f"{', and '.join(parts)}, for rows drawn like that split.{_left_out(floor)}"
    )


def refusal_sentence(
    guarantees: Guarantees, losses: Sequence[np.ndarray], _: Sequence[LabelFloor]
) -> str:
    """Why nothing is certified, and the way on; `losses` are the most cautious policy's."""
    worst = max(
        zip(guarantees.promises, losses, strict=True),
        key=lambda pair: _mean(pair[1]) - pair[0].epsilon,
    )
    promise, rows = worst
    labels = (
        " Labels were tested one by one as well: --label-epsilon can be raised."
        if guarantees.label_epsilon is not None
        else ""
    )
    return (
        f"Nothing could be certified: the most cautious policy lost {_mean(rows):.4f} "
        f"({promise.loss}) on {len(rows)} rows, too much to promise at most "
        f"{percent(promise.epsilon)} with probability {percent(1 - guarantees.delta)}. The "
        f"full-depth policy is deployed; {_way_on(promise, guarantees.delta, rows)}.{labels}"
    )


def no_exit_sentence(*_: object) -> str:
    """There is no early exit to promise anything of."""
    return (
        "There is nothing to certify: no early exit is left. The full-depth policy is deployed; "
        "the report and `offramp plan` tell for every layer why it has no exit."
    )


def rows_needed(rate: float, epsilon: float, delta: float) -> int | None:
    """The fewest rows that certify epsilon when a share `rate` of them is lost; None if none do."""
    if rate >= epsilon:
        return None
    low, high = 0, math.ceil(math.log(delta) / math.log1p(-epsilon))
    while binomial_p_value(round(rate * high), high, epsilon) > delta:
        low, high = high, 2 * high
    while high - low > 1:  # round() makes the p-value ripple: the answer is exact up to one ripple
        middle = (low + high) // 2
        if binomial_p_value(round(rate * middle), middle, epsilon) > delta:
            low = middle
        else:
            high = middle
    return high


def percent(share: float) -> str:
    """A share as sentences show it, e.g. `2%`."""
    return f"{100 * share:.10g}%"


def _way_on(promise: Guarantee, delta: float, losses: np.ndarray) -> str:
    mean = _mean(losses)
    if mean >= promise.epsilon:
        return (
            f"no number of rows certifies a loss above {percent(promise.epsilon)}: raise "
            "--epsilon or train better early exits"
        )
    if promise.binary:
        needed = rows_needed(mean, promise.epsilon, delta) or 0
    else:
        needed = _betting_rows_needed(promise, delta, losses)
    return f"about {max(needed, len(losses) + 1)} certify rows would be needed at the loss seen"


def _betting_rows_needed(promise: Guarantee, delta: float, losses: np.ndarray) -> int:
    """Rows like these that certify the promise: the normal approximation, then by trying."""
    spread = float(losses.var()) + 1e-3
    rows = math.ceil(2 * spread * math.log(1 / delta) / (promise.epsilon - _mean(losses)) ** 2)
    if promise.loss == "micro-f1":  # its test needs the label sets, not the losses
        return rows
    while rows < MOST_TRIED and not _is_proven(promise, delta, np.resize(losses, rows)):
        rows = math.ceil(1.1 * rows)
    return rows


def _is_proven(promise: Guarantee, delta: float, losses: np.ndarray) -> bool:
    return betting_p_value(losses - promise.epsilon, 1 - promise.epsilon, delta) <= delta


def _labels(guarantees: Guarantees, floor: Sequence[LabelFloor]) -> list[str]:
    promised = sum(label.mean_loss is not None for label in floor)
    if not promised:
        return []
    which = f"each of {promised} labels" if promised > 1 else "1 label"
    whose = "true positives" if guarantees.against == "labels" else "full model's positives"
    more = " more than the full model" if guarantees.against == "labels" else ""
    return [f"{which} loses at most {percent(guarantees.label_epsilon or 0)} of its {whose}{more}"]


def _left_out(floor: Sequence[LabelFloor]) -> str:
    few = [label for label in floor if label.mean_loss is None]
    if not few:
        return ""
    named = ", ".join(f"{label.label} ({label.positives})" for label in few[:SHOWN])
    named += f" and {len(few) - SHOWN} more" if len(few) > SHOWN else ""
    return (
        f" Nothing is promised of single labels with fewer than {few[0].needed} positives to be "
        f"expected in the certify split: {named}."
    )


def _side(mean: float) -> str:
    return f"{abs(mean):.4f} {'above' if mean > 0 else 'below'} it"


def _mean(losses: np.ndarray) -> float:
    return float(losses.mean()) if len(losses) else 0.0
