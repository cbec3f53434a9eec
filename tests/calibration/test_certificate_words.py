from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibration.certificate_words import (
    SHOWN,
    WORDS,
    percent,
    promise_sentence,
    refusal_sentence,
    rows_needed,
)
from calibration.guarantee import Against, Guarantee, Guarantees
from calibration.p_values import betting_p_value, binomial_p_value
from models.manifest import GuaranteeKind, LabelFloor

DELTA = 0.05

CERTIFIED = {
    ("set-agreement", "model"): "at most 2.5% of rows get a label set that differs from the full "
    "model's (4 of 400 rows of the certify split did)",
    ("hamming", "model"): "at most 2.5% of label decisions differ from the full model's (it was "
    "0.0100 of them on 400 rows of the certify split)",
    ("sample-f1", "model"): "the mean F1 of a row's label set against the full model's is at most "
    "2.5% below 1 (it was 0.0100 below on 400 rows of the certify split)",
    ("micro-f1", "model"): "the micro-F1 of the label sets against the full model's is at most "
    "2.5% below 1 (it was 0.0100 below on 400 rows of the certify split)",
    ("set-agreement", "labels"): "the share of rows with a wrong label set is at most 2.5% above "
    "the full model's (it was 0.0100 above it on 400 rows of the certify split)",
    ("hamming", "labels"): "the share of wrong label decisions is at most 2.5% above the full "
    "model's (it was 0.0100 above it on 400 rows of the certify split)",
    ("sample-f1", "labels"): "the mean F1 of a row's label set against the true one is at most "
    "2.5% below the full model's (it was 0.0100 below it on 400 rows of the certify split)",
    ("micro-f1", "labels"): "the micro-F1 against the true labels is at most 2.5% below the full "
    "model's (it was 0.0100 below it on 400 rows of the certify split)",
}
EACH = pytest.mark.parametrize(("loss", "against"), CERTIFIED)


def losses(lost: int = 4, rows: int = 400, each: float = 1.0) -> np.ndarray:
    """A loss on the first rows, spread over the others without any."""
    return np.where(np.arange(rows) < lost, each, 0.0)


def promised(
    loss: GuaranteeKind = "set-agreement",
    against: Against = "model",
    epsilon: float = 0.025,
    label_epsilon: float | None = None,
) -> Guarantees:
    return Guarantees((Guarantee(loss, against, epsilon),), DELTA, label_epsilon)


def floor(positives: Sequence[int], needed: int = 29) -> tuple[LabelFloor, ...]:
    return tuple(
        LabelFloor(
            label=f"label {n}",
            positives=n,
            needed=needed,
            mean_loss=0.01 if n >= needed else None,
        )
        for n in positives
    )


def test_there_are_words_for_every_promise() -> None:
    assert set(WORDS) == set(CERTIFIED)


@EACH
def test_a_promise_in_words_says_what_was_promised_and_seen(
    loss: GuaranteeKind, against: Against
) -> None:
    sentence = promise_sentence(promised(loss, against), [losses()], ())
    assert sentence == (
        f"With probability at least 95%, {CERTIFIED[loss, against]}, "
        "for rows drawn like that split."
    )


@EACH
def test_a_refusal_names_the_loss_the_rows_and_what_could_not_be_promised(
    loss: GuaranteeKind, against: Against
) -> None:
    sentence = refusal_sentence(promised(loss, against), [losses(8)], ())
    assert sentence.startswith(
        f"Nothing could be certified: the most cautious policy lost 0.0200 ({loss}) on 400 rows, "
        "too much to promise at most 2.5% with probability 95%. The full-depth policy is deployed; "
    )
    assert re.search(r"about \d+ certify rows would be needed at the loss seen\.$", sentence)


@EACH
def test_a_refusal_that_no_rows_would_help_says_so(loss: GuaranteeKind, against: Against) -> None:
    sentence = refusal_sentence(promised(loss, against), [losses(10)], ())
    assert sentence.endswith(
        "no number of rows certifies a loss above 2.5%: raise --epsilon or train better early "
        "exits."
    )


@pytest.mark.parametrize("loss", ["set-agreement", "hamming"])
def test_a_policy_better_than_the_full_model_is_below_its_losses(loss: GuaranteeKind) -> None:
    sentence = promise_sentence(promised(loss, "labels"), [-losses()], ())
    assert "(it was 0.0100 below it on 400 rows" in sentence


@pytest.mark.parametrize("loss", ["sample-f1", "micro-f1"])
def test_a_policy_better_than_the_full_model_is_above_its_f1(loss: GuaranteeKind) -> None:
    sentence = promise_sentence(promised(loss, "labels"), [-losses()], ())
    assert "(it was 0.0100 above it on 400 rows" in sentence


def test_several_promises_make_one_sentence() -> None:
    promises = (Guarantee("set-agreement", "model", 0.1), Guarantee("micro-f1", "model", 0.02))
    sentence = promise_sentence(Guarantees(promises, 0.1), [losses(12), losses(2)], ())
    assert sentence.startswith("With probability at least 90%, at most 10% of rows get")
    assert "(12 of 400 rows of the certify split did), and the micro-F1 of" in sentence
    assert "at most 2% below 1 (it was 0.0050 below on 400 rows" in sentence
    assert sentence.count(".") - sentence.count("0.") == 1


def test_a_refusal_names_the_promise_that_was_missed_most() -> None:
    promises = (Guarantee("hamming", "model", 0.1), Guarantee("sample-f1", "model", 0.02))
    sentence = refusal_sentence(Guarantees(promises, DELTA), [losses(20), losses(10)], ())
    assert "lost 0.0250 (sample-f1) on 400 rows, too much to promise at most 2%" in sentence


@pytest.mark.parametrize(
    ("against", "whose"),
    [
        ("model", "at most 10% of its full model's positives, for rows"),
        ("labels", "at most 10% of its true positives more than the full model, for rows"),
    ],
)
def test_promised_labels_are_counted(against: Against, whose: str) -> None:
    guarantees = promised("hamming", against, label_epsilon=0.1)
    sentence = promise_sentence(guarantees, [losses()], floor([300, 200, 29]))
    assert f", and each of 3 labels loses {whose}" in sentence
    assert "Nothing is promised" not in sentence


def test_labels_with_too_few_positives_are_named_with_the_number_they_need() -> None:
    guarantees = promised(label_epsilon=0.1)
    sentence = promise_sentence(guarantees, [losses()], floor([300, 28, 3]))
    assert "each of 1 labels" not in sentence
    assert "and 1 label loses at most 10%" in sentence
    assert sentence.endswith(
        " Nothing is promised of single labels with fewer than 29 positives to be expected in "
        "the certify split: label 28 (28), label 3 (3)."
    )


def test_where_no_label_can_be_promised_none_is_said_to_be() -> None:
    sentence = promise_sentence(promised(label_epsilon=0.1), [losses()], floor([3]))
    assert "loses at most" not in sentence
    assert sentence.endswith("label 3 (3).")


def test_a_long_list_of_labels_is_cut_short_and_counted() -> None:
    sentence = promise_sentence(
        promised(label_epsilon=0.1), [losses()], floor([300, *range(SHOWN + 4)])
    )
    assert sentence.endswith(f"label {SHOWN - 1} ({SHOWN - 1}) and 4 more.")
    assert f"label {SHOWN} (" not in sentence


def test_a_refusal_says_that_labels_were_tested_too() -> None:
    sentence = refusal_sentence(promised(label_epsilon=0.1), [losses(8)], ())
    assert sentence.endswith("--label-epsilon can be raised.")
    assert "--label-epsilon" not in refusal_sentence(promised(), [losses(8)], ())


@given(st.floats(0, 0.9), st.floats(0.005, 0.5), st.floats(0.01, 0.2))
def test_the_rows_needed_are_enough(share: float, epsilon: float, delta: float) -> None:
    rate = share * epsilon
    needed = rows_needed(rate, epsilon, delta)
    assert needed is not None
    assert binomial_p_value(round(rate * needed), needed, epsilon) <= delta * (1 + 1e-12)


@pytest.mark.parametrize(
    ("rate", "epsilon", "rows"), [(0.0, 0.01, 299), (0.0, 0.02, 149), (0.01, 0.02, 590)]
)
def test_one_row_less_than_needed_is_too_few(rate: float, epsilon: float, rows: int) -> None:
    assert rows_needed(rate, epsilon, DELTA) == rows
    assert binomial_p_value(round(rate * (rows - 1)), rows - 1, epsilon) > DELTA


def test_a_hopeless_rate_has_no_number_of_rows() -> None:
    assert rows_needed(0.02, 0.02, DELTA) is None
    assert rows_needed(0.03, 0.02, DELTA) is None


@pytest.mark.parametrize("against", ["model", "labels"])
@pytest.mark.parametrize("rate", [0.25, 0.5, 0.7])
def test_the_rows_that_a_refusal_asks_for_are_about_enough_for_bounded_losses(
    rate: float, against: Against
) -> None:
    epsilon, rng = 0.05, np.random.default_rng(0)
    seen = rng.permutation(losses(50, 100, 2 * rate * epsilon))
    sentence = refusal_sentence(promised("hamming", against, epsilon), [seen], ())
    needed = int(sentence.split("about ")[1].split()[0])

    def proven(rows: int) -> float:
        draws = [rng.choice(seen, rows) - epsilon for _ in range(50)]
        return float(np.mean([betting_p_value(x, 1 - epsilon, DELTA) <= DELTA for x in draws]))

    assert proven(2 * needed) > 0.8
    assert needed == 101 or proven(needed // 2) < 0.5


def test_a_loss_just_below_epsilon_asks_for_very_many_rows() -> None:
    seen = losses(50, 100, 0.09999)
    sentence = refusal_sentence(promised("hamming", "model", 0.05), [seen], ())
    assert int(sentence.split("about ")[1].split()[0]) > 1_000_000


@pytest.mark.parametrize(("share", "words"), [(0.02, "2%"), (0.95, "95%"), (0.001, "0.1%")])
def test_shares_are_shown_as_percent(share: float, words: str) -> None:
    assert percent(share) == words
