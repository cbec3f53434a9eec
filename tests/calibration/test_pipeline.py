from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import f1_score

from calibration.certificate import binomial_p_value
from calibration.costs import computed_time
from calibration.dataset import SPLITS, Dataset, split_rows
from calibration.splits import hash_rows, split_digests
from models.bundle import Bundle
from models.manifest import Costs
from models.runtime import StageRuntime, at_exits


def labels_of(dataset: Dataset, split: str) -> np.ndarray:
    return dataset.labels[dataset.split == SPLITS.index(split)]


def test_what_is_certified_is_what_the_bundle_serves(
    bundle: Bundle, runtime: StageRuntime, digits: Dataset
) -> None:
    """The certificate's count of losses is found again from the written bundle alone."""
    manifest = bundle.manifest
    answers = runtime.all_exits((split_rows(digits, "certify"),), batch=50)
    exits = manifest.policy.route([exit_answers.score for exit_answers in answers])
    differ = (at_exits(answers, exits).labels != answers[-1].labels).any(axis=1)
    certificate = manifest.certificate
    assert certificate.certified
    losses = int(differ.sum())
    assert losses / len(exits) == pytest.approx(certificate.mean_loss)
    assert binomial_p_value(losses, len(exits), certificate.epsilon) == pytest.approx(
        certificate.p_value
    )


def test_test_split_figures_are_those_of_the_bundle(
    bundle: Bundle, runtime: StageRuntime, digits: Dataset
) -> None:
    measured = bundle.manifest.test
    answers = runtime.all_exits((split_rows(digits, "test"),))
    exits = bundle.manifest.policy.route([exit_answers.score for exit_answers in answers])
    for number, profile in enumerate(measured.exits, start=1):
        assert profile.share_leaving == pytest.approx(np.mean(exits == number))
    assert measured.policy.micro_f1 == pytest.approx(
        f1_score(labels_of(digits, "test"), at_exits(answers, exits).labels, average="micro")
    )
    assert len(set(exits)) > 1


def test_last_exit_is_at_no_distance_to_itself(bundle: Bundle) -> None:
    first, *_, last = bundle.manifest.test.exits
    assert last.w_teacher.value == pytest.approx(0, abs=1e-6)
    assert first.w_teacher.value > 0.1


def test_computed_time_counts_the_stages_up_to_the_exit() -> None:
    def costs(*stages: float, beyond: float = 0.0) -> Costs:
        rows = tuple((ms,) for ms in stages)
        return Costs(
            machine="", batch_rows=(1,), stage_milliseconds=rows, beyond_milliseconds=(beyond,)
        )

    assert computed_time(np.array([1, 1, 2, 3]), costs(1, 1, 2)) == pytest.approx(2 / 4)
    assert computed_time(np.array([3, 3]), costs(5, 1, 1)) == 1
    assert computed_time(np.array([2, 2]), costs(1, 1, beyond=2)) == pytest.approx(1 / 2)


def test_splits_are_recorded_by_hash(bundle: Bundle, digits: Dataset) -> None:
    recorded = bundle.manifest.splits
    hashes = hash_rows(np.concatenate([split_rows(digits, name) for name in SPLITS]))
    assert {name: facts.sha256 for name, facts in recorded.items()} == split_digests(
        hashes, digits.labels, digits.split
    )
    assert recorded["certify"].rows == 800
