from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import f1_score

from calibration.costs import computed_time
from calibration.dataset import SPLITS, Dataset, split_rows
from calibration.p_values import binomial_p_value
from calibration.splits import hash_rows, split_digests
from models.bundle import Bundle
from models.measurements import Costs
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
    (promise,) = certificate.promises
    losses = int(differ.sum())
    assert losses / len(exits) == pytest.approx(promise.mean_loss)
    assert binomial_p_value(losses, len(exits), promise.epsilon) == pytest.approx(promise.p_value)
    assert str(losses) in certificate.sentence


def test_test_split_figures_are_those_of_the_bundle(
    bundle: Bundle, runtime: StageRuntime, digits: Dataset
) -> None:
    measured = bundle.manifest.test
    answers = runtime.all_exits((split_rows(digits, "test"),))
    exits = bundle.manifest.policy.route([exit_answers.score for exit_answers in answers])
    for number, profile in enumerate(measured.exits, start=1):
        assert profile.share_leaving == pytest.approx(np.mean(exits == number))
    assert measured.policy.micro_f1.policy == pytest.approx(
        f1_score(labels_of(digits, "test"), at_exits(answers, exits).labels, average="micro")
    )
    assert len(set(exits)) > 1


def test_last_exit_is_at_no_distance_to_itself(bundle: Bundle) -> None:
    first, *_, last = bundle.manifest.test.exits
    assert last.w_teacher.value == pytest.approx(0, abs=1e-6)
    assert first.w_teacher.value > 0.1


def test_computed_time_is_a_share_of_the_model_without_exits() -> None:
    costs = Costs(
        machine="",
        batch_rows=(1,),
        stage_milliseconds=((1.0,), (1.0,), (2.0,)),
        beyond_milliseconds=(0.0,),
        exit_milliseconds=((0.1,), (0.1,)),
        whole_milliseconds=(3.8,),
    )
    assert computed_time(np.array([1, 1, 2, 3]), costs) == pytest.approx(2 / 3.8)
    assert computed_time(np.array([3, 3]), costs) == pytest.approx(4 / 3.8)


def test_the_deployed_policy_lies_on_the_w_path_of_the_report(bundle: Bundle) -> None:
    """The quality-cost curve holds the very point that the policy has."""
    measured = bundle.manifest.test
    path = measured.curves[0]
    assert path.method == "W path"
    assert any(
        point.time == pytest.approx(measured.policy.computed_time)
        and point.micro_f1 == pytest.approx(measured.policy.micro_f1.policy)
        for point in path.points
    )
    assert {"entropy", "patience", "one quantile", "greedy search", "static"} <= {
        curve.method for curve in measured.curves
    }


def test_every_candidate_layer_has_a_profile_and_a_decision(bundle: Bundle) -> None:
    manifest = bundle.manifest
    names = [layer.layer for layer in manifest.profile.layers]
    assert names == [decision.layer for decision in manifest.placement]
    assert all(decision.reason for decision in manifest.placement)
    assert [d.exit for d in manifest.placement if d.exit] == [e.number for e in manifest.exits]
    assert len(manifest.profile.layers[0].to_labels.per_label) == len(manifest.labels)


def test_thresholds_are_on_their_curves(bundle: Bundle) -> None:
    manifest = bundle.manifest
    for exit_, curve in zip(manifest.exits, manifest.threshold_curves, strict=False):
        assert exit_.threshold is None or exit_.threshold in curve.thresholds
        assert list(curve.envelope) == sorted(curve.envelope)


def test_splits_are_recorded_by_hash(bundle: Bundle, digits: Dataset) -> None:
    recorded = bundle.manifest.splits
    hashes = hash_rows(np.concatenate([split_rows(digits, name) for name in SPLITS]))
    assert {name: facts.sha256 for name, facts in recorded.items()} == split_digests(
        hashes, digits.labels, digits.split
    )
    assert recorded["certify"].rows == 800
