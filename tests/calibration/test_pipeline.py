from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import f1_score

from calibration.certificate import binomial_p_value
from calibration.costs import computed_time
from calibration.data import Splits
from models.bundle import Bundle
from models.runtime import StageRuntime, at_exits


def test_what_is_certified_is_what_the_bundle_serves(
    bundle: Bundle, runtime: StageRuntime, splits: Splits
) -> None:
    """The certificate's count of losses is found again from the written bundle alone."""
    manifest = bundle.manifest
    answers = runtime.all_exits(splits.certify.inputs, batch=50)
    exits = manifest.policy.route([exit_answers.score for exit_answers in answers])
    differ = (at_exits(answers, exits).labels != answers[-1].labels).any(axis=1)
    certificate = manifest.certificate
    assert certificate.certified
    assert int(differ.sum()) == certificate.losses
    assert binomial_p_value(certificate.losses, len(exits), certificate.epsilon) == pytest.approx(
        certificate.p_value
    )


def test_test_split_figures_are_those_of_the_bundle(
    bundle: Bundle, runtime: StageRuntime, splits: Splits
) -> None:
    measured = bundle.manifest.test
    answers = runtime.all_exits(splits.test.inputs)
    exits = bundle.manifest.policy.route([exit_answers.score for exit_answers in answers])
    for number, profile in enumerate(measured.exits, start=1):
        assert profile.share_leaving == pytest.approx(np.mean(exits == number))
    assert measured.policy.micro_f1 == pytest.approx(
        f1_score(splits.test.labels, at_exits(answers, exits).labels, average="micro")
    )
    assert len(set(exits)) > 1


def test_last_exit_is_at_no_distance_to_itself(bundle: Bundle) -> None:
    first, *_, last = bundle.manifest.test.exits
    assert last.w_teacher.value == pytest.approx(0, abs=1e-6)
    assert first.w_teacher.value > 0.1


def test_computed_time_counts_the_stages_up_to_the_exit() -> None:
    assert computed_time(np.array([1, 1, 2, 3]), [1.0, 1.0, 2.0]) == pytest.approx(2 / 4)
    assert computed_time(np.array([3, 3]), [5.0, 1.0, 1.0]) == 1


def test_splits_are_recorded_by_hash(bundle: Bundle, splits: Splits) -> None:
    recorded = bundle.manifest.splits
    assert {name: facts.sha256 for name, facts in recorded.items()} == splits.digests()
    assert recorded["certify"].rows == 800
