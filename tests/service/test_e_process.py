from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from service import e_process
from service.e_process import EProcess

EPSILON = 0.1


def alarm(losses: np.ndarray, alpha: float, epsilon: float = EPSILON) -> int | None:
    """The row at which the evidence reaches 1 / alpha."""
    process = EProcess(-epsilon)
    for row, loss in enumerate(losses.tolist()):
        process.see(loss - epsilon)
        if process.largest >= 1 / alpha:
            return row
    return None


@pytest.mark.parametrize(("block", "bettors"), [(200, 64), (2, 64), (1, 2)])
def test_at_the_edge_of_the_hypothesis_the_mean_is_one_at_most(
    monkeypatch: pytest.MonkeyPatch, block: int, bettors: int
) -> None:
    """Exactly, over all sequences; a bettor that is dropped takes its capital along."""
    monkeypatch.setattr(e_process, "BLOCK", block)
    monkeypatch.setattr(e_process, "BETTORS", bettors)
    expected = 0.0
    for losses in product((0, 1), repeat=10):
        process = EProcess(-EPSILON)
        for loss in losses:
            process.see(loss - EPSILON)
        chance = EPSILON ** sum(losses) * (1 - EPSILON) ** (10 - sum(losses))
        expected += chance * process.value
    assert expected <= 1 + 1e-12
    if bettors == 64:
        assert expected == pytest.approx(1.0)


def test_it_is_never_negative_and_remembers_its_largest() -> None:
    process, values = EProcess(-EPSILON), []
    for loss in np.random.default_rng(5).random(3000) < 0.3:
        process.see(float(loss) - EPSILON)
        values.append(process.value)
    assert min(values) > 0
    assert process.largest == max(values)


def test_false_alarms_are_at_most_alpha() -> None:
    """At the largest mean that the hypothesis allows; three standard errors are allowed."""
    alpha, runs, random = 0.1, 300, np.random.default_rng(7)
    alarms = sum(alarm(random.random(1500) < EPSILON, alpha) is not None for _ in range(runs))
    assert alarms <= runs * alpha + 3 * np.sqrt(runs * alpha * (1 - alpha))


@pytest.mark.parametrize("clean", [0, 4000])
def test_a_change_is_found_soon_however_long_all_was_well(clean: int) -> None:
    random = np.random.default_rng(11)
    losses = np.concatenate([random.random(clean) < 0.05, random.random(1000) < 0.3])
    found = alarm(losses, alpha=0.01)
    assert found is not None
    assert clean <= found < clean + 300
