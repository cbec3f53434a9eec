"""Which score a bundle computes: the kind that best tells the rows that an exit would lose."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import get_args

import numpy as np

from calibration.layer_answers import LayerHead, chain_answers, chain_tensors, head_logits
from models.errors import CalibrationError
from models.gate import Gate, evidence_width
from models.heads import HeadCalibration, output_name
from models.measurements import ScoreChoice, ScoreKind
from models.scores import ScoreRule, exit_tensor

TOLERANCE = 0.005  # of AUROC; a simpler kind is as good as a better one within it
PSEUDO_ROWS = 5  # with which a label's width starts, at the mean over all labels
LEAST_WIDTH = 1e-3
LEAST_SCALE = 1e-3  # of evidence; what varies less is not blown up
FOLDS = 2
DEPTH_TO_FREEZE = 3  # a label frozen at exit 2 is kept at exit 3

Lost = Callable[[int, np.ndarray], np.ndarray]


def choose_scores(
    columns: Sequence[np.ndarray],
    heads: Sequence[LayerHead],
    target: np.ndarray,
    lost: Lost,
    kinds: Sequence[ScoreKind],
    freeze: bool,
    seed: int,
) -> tuple[list[LayerHead], ScoreChoice]:
    """Fit every kind of score on the tune split and give the heads the best one.

    Best is the largest mean over the early exits of the AUROC with which the score tells the rows
    that are not lost; within TOLERANCE of it, the simpler kind (the order of `ScoreKind`). Widths
    and gates are judged on the half of the rows that they were not fitted on, then fitted on all.

    Parameters
    ----------
    columns : K, one per exit, features or logits of the n rows of the tune split, (n, C) each
    heads : K calibrated heads, whatever their score
    target : bool (n, L), the decisions that label widths are measured against
    lost : (early exit k, counted from 0, label sets bool (n, L) of all rows there) -> bool (n,)
    kinds : to choose from
    freeze : whether labels freeze; with fewer than three exits none could be kept, and none is

    Returns
    -------
    The heads with their score, and the choice as the manifest records it. Where nothing can be
    fitted, because no row or every row is lost, an exit's gate is replaced by the margin. With one
    exit the score decides nothing and is the margin.

    Raises
    ------
    CalibrationError
        When there is no kind to choose from.
    """
    ordered = [kind for kind in get_args(ScoreKind) if kind in kinds]
    if not ordered:
        raise CalibrationError(
            f"found no kind of score to choose from in {list(kinds)}, expected at least one of "
            f"{', '.join(get_args(ScoreKind))}"
        )
    if len(heads) == 1:
        margin = ScoreChoice(kind="margin", auroc=dict.fromkeys(ordered, ()), frozen_labels=False)
        return [heads[0].scored_by(ScoreRule())], margin
    tune = _TuneSplit(columns, heads, target, lost, freeze and len(heads) >= DEPTH_TO_FREEZE)
    folds = np.random.default_rng(seed).permutation(len(target)) % FOLDS
    auroc = {kind: tune.auroc(kind, folds) for kind in ordered}
    kind = best_kind(auroc)
    rules = tune.rules(kind, np.ones(len(target), bool))
    if all(rule.kind == "margin" for rule in rules):
        kind = "margin"
    choice = ScoreChoice(kind=kind, auroc=auroc, frozen_labels=tune.freeze)
    return [head.scored_by(rule) for head, rule in zip(heads, rules, strict=True)], choice


def best_kind(auroc: Mapping[ScoreKind, Sequence[float | None]]) -> ScoreKind:
    """The simplest kind within TOLERANCE of the largest mean over the exits where it is known."""
    means = {
        kind: float(np.mean(known)) if (known := [a for a in values if a is not None]) else 0.0
        for kind, values in auroc.items()
    }
    largest = max(means.values())
    near = [kind for kind, mean in means.items() if mean >= largest - TOLERANCE]
    return min(near, key=get_args(ScoreKind).index)


def label_widths(distance: np.ndarray, wrong: np.ndarray) -> np.ndarray:
    """Width of every label at one exit: how far from its threshold it still errs.

    The mean distance |p - tau| of the rows that are wrong, after PSEUDO_ROWS at the mean over the
    wrong decisions of all labels. A label that is never wrong in n rows has PSEUDO_ROWS / n of that
    mean, roughly: the more rows say so, the narrower it is.

    Parameters
    ----------
    distance : float (n, L), of the probabilities to their thresholds
    wrong : bool (n, L), where the decision is not the target's

    Returns
    -------
    float (L,), positive, in the unit of the probabilities
    """
    count = wrong.sum(axis=0)
    total = np.where(wrong, distance, 0).sum(axis=0, dtype=float)
    if not count.any():
        return np.full(len(count), LEAST_WIDTH)
    start = PSEUDO_ROWS * total.sum() / count.sum()
    rows = np.where(count > 0, count, len(wrong))
    widths: np.ndarray = np.maximum((total + start) / (rows + PSEUDO_ROWS), LEAST_WIDTH)
    return widths


def fit_gate(evidence: np.ndarray, kept: np.ndarray) -> Gate | None:
    """Fit "this row is not lost": evidence (n, F), kept bool (n,); None if all rows are alike."""
    from sklearn.linear_model import LogisticRegression

    if kept.all() or not kept.any():
        return None
    mean = evidence.mean(axis=0, dtype=float)
    scale = np.maximum(evidence.std(axis=0, dtype=float), LEAST_SCALE)
    model = LogisticRegression(max_iter=1000).fit((evidence - mean) / scale, kept)
    return Gate(model.coef_[0], float(model.intercept_[0]), mean, scale)


class _TuneSplit:
    """The exits' logits on the tune split, on which scores are fitted and judged."""

    def __init__(
        self,
        columns: Sequence[np.ndarray],
        heads: Sequence[LayerHead],
        target: np.ndarray,
        lost: Lost,
        freeze: bool,
    ) -> None:
        self.freeze = freeze
        self._lost = lost
        self._logits = [
            head_logits(column, head.layers) for column, head in zip(columns, heads, strict=True)
        ]
        self._heads = [LayerHead(None, head.calibration) for head in heads]
        self._early = range(len(heads) - 1)
        alone = chain_answers(self._logits, self._scored([ScoreRule()] * len(heads)))
        self._distances = [
            np.abs(answers.probabilities - head.calibration.thresholds.astype(np.float32))
            for answers, head in zip(alone, heads, strict=True)
        ]
        self._wrong = [answers.labels != target for answers in alone]

    def rules(self, kind: ScoreKind, rows: np.ndarray) -> list[ScoreRule]:
        """A rule per exit, fitted on some rows: bool (n,)."""
        needed = self.freeze or kind == "width"
        widths = [
            label_widths(distance[rows], wrong[rows]) if needed else None
            for distance, wrong in zip(self._distances, self._wrong, strict=True)
        ]
        if kind == "gate":
            return self._gated(widths, rows)
        return [ScoreRule(kind, width, freeze=self.freeze) for width in widths]

    def auroc(self, kind: ScoreKind, folds: np.ndarray) -> tuple[float | None, ...]:
        """How well the score tells kept rows at every early exit; rules come from other folds."""
        from sklearn.metrics import roc_auc_score

        scores = np.zeros((len(self._early), len(folds)), np.float32)
        kept = np.zeros(scores.shape, bool)
        for fold in range(FOLDS):
            held_out = folds == fold
            answers = chain_answers(self._logits, self._scored(self.rules(kind, ~held_out)))
            for k in self._early:
                scores[k, held_out] = answers[k].score[held_out]
                kept[k, held_out] = ~self._lost(k, answers[k].labels)[held_out]
        return tuple(
            float(roc_auc_score(kept[k], scores[k])) if 0 < kept[k].sum() < len(folds) else None
            for k in self._early
        )

    def _gated(self, widths: Sequence[np.ndarray | None], rows: np.ndarray) -> list[ScoreRule]:
        """Gates at the early exits, the margin where none can be fitted, and at the last."""
        rules = [ScoreRule("margin", width, freeze=self.freeze) for width in widths]
        blank = [
            ScoreRule(
                "gate", widths[k], _blank_gate(k + 1, self._heads[k].calibration), self.freeze
            )
            for k in self._early
        ]
        names = [exit_tensor(k + 1, "evidence") for k in self._early]
        names += [output_name(k + 1, "labels") for k in self._early]
        tensors = chain_tensors(self._logits, self._scored([*blank, rules[-1]]), names)
        for k in self._early:
            kept = ~self._lost(k, tensors[len(self._early) + k])
            gate = fit_gate(tensors[k][rows], kept[rows])
            if gate is not None:
                rules[k] = ScoreRule("gate", widths[k], gate, self.freeze)
        return rules

    def _scored(self, rules: Sequence[ScoreRule]) -> list[LayerHead]:
        return [head.scored_by(rule) for head, rule in zip(self._heads, rules, strict=True)]


def _blank_gate(number: int, calibration: HeadCalibration) -> Gate:
    """A gate that knows nothing, to read the evidence of its exit."""
    width = evidence_width(number, len(calibration.thresholds))
    return Gate(np.zeros(width), 0.0, np.zeros(width), np.ones(width))
