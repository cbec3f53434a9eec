from __future__ import annotations

import numpy as np
import pytest

from calibration.guarantee import Guarantee, Guarantees
from calibration.live_reference import largest_loss, live_reference, quantiles
from models.bundle import REFERENCE, Bundle
from models.errors import BundleError
from models.live_reference import LEVELS, read_reference
from models.manifest import GuaranteeKind
from models.policy import Policy
from models.runtime import Answers, StageRuntime
from models.set_losses import set_loss
from tests.manifests import full_manifest


def test_a_bundle_carries_the_promise_and_the_policys_own_distribution(
    bundle: Bundle, runtime: StageRuntime, rows: np.ndarray
) -> None:
    reference = read_reference(bundle.files)
    assert reference is not None
    (promise,) = bundle.manifest.certificate.promises
    assert [(limit.mean_loss, limit.source) for limit in reference.limits] == [
        (promise.epsilon, "promised")
    ]
    assert reference.rows == bundle.manifest.certificate.rows
    exits = runtime.all_exits((rows,))
    route = bundle.manifest.policy.route([answers.score for answers in exits])
    scores = np.stack([answers.score for answers in exits])[route - 1, np.arange(len(rows))]
    # other rows of the same law
    assert np.abs(np.array(reference.scores) - quantiles(scores)).mean() < 0.05


def test_quantiles_are_values_at_the_middles_of_equal_shares() -> None:
    assert quantiles(np.full(7, 0.25)) == (0.25,) * LEVELS
    found = np.array(quantiles(np.linspace(0, 1, 10_001)))
    np.testing.assert_allclose(found, (np.arange(LEVELS) + 0.5) / LEVELS, atol=1e-3)


@pytest.mark.parametrize("loss", ["set-agreement", "hamming", "sample-f1", "micro-f1"])
def test_the_largest_loss_is_above_the_mean_and_near_it_with_many_rows(
    loss: GuaranteeKind,
) -> None:
    rng = np.random.default_rng(0)
    target = rng.random((5000, 6)) < 0.4
    answers = target ^ (rng.random(target.shape) < 0.02)
    mean = set_loss(loss, answers, target).mean()
    bound = largest_loss(Guarantee(loss), 0.05, answers, target)
    assert mean < bound < 1.5 * mean
    fewer = largest_loss(Guarantee(loss), 0.05, answers[:300], target[:300])
    assert fewer > bound


def made_up(seed: int, rows: int = 800, exits: int = 3, labels: int = 4) -> list[Answers]:
    rng = np.random.default_rng(seed)
    probabilities = rng.random((exits, rows, labels)).astype(np.float32)
    scores = rng.random((exits, rows)).astype(np.float32)
    return [Answers(p, p > 0.5, s) for p, s in zip(probabilities, scores, strict=True)]


def test_towards_labels_the_loss_on_the_test_split_is_the_measure() -> None:
    guarantees = Guarantees((Guarantee("hamming", "labels", 0.02),))
    certificate = full_manifest().certificate
    test = made_up(1)
    policy = Policy((0.5, None))
    reference = live_reference(policy, certificate, guarantees, made_up(0), test)
    (limit,) = reference.limits
    early = test[0].score >= 0.5
    answered = np.where(early[:, None], test[0].labels, test[-1].labels)
    lost = (answered != test[-1].labels).mean()
    assert limit.source == "measured"
    assert lost < limit.mean_loss < 1.3 * lost


def test_where_nothing_is_certified_there_is_no_limit() -> None:
    certificate = full_manifest().certificate.model_copy(update={"certified": False})
    guarantees = Guarantees((Guarantee("hamming", "model", 0.02),))
    reference = live_reference(Policy.full(3), certificate, guarantees, made_up(0), made_up(1))
    assert reference.limits == ()


def test_a_reference_of_another_schema_is_refused(bundle: Bundle) -> None:
    assert read_reference({}) is None
    changed = bundle.files[REFERENCE].replace(b'"rows"', b'"lines"')
    with pytest.raises(BundleError, match=r"reference\.json does not follow the schema"):
        read_reference({REFERENCE: changed})
