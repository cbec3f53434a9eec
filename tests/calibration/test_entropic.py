from __future__ import annotations

import numpy as np
import ot
import pytest

from calibration.entropic import entropic_cost, entropic_self_cost


def oracle(cost: np.ndarray, epsilon: float) -> float:
    """Cost and divergence of the plan that POT finds in the log domain."""
    n, m = cost.shape
    weights = np.full(n, 1 / n), np.full(m, 1 / m)
    plan = ot.bregman.sinkhorn_log(*weights, cost, epsilon, stopThr=1e-11, numItermax=100_000)
    divergence = (plan * np.log(np.maximum(plan * n * m, 1e-300))).sum()
    return float((plan * cost).sum() + epsilon * divergence)


@pytest.fixture
def clouds() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(40, 3)), rng.normal(size=(30, 3)) + 1


@pytest.mark.parametrize("epsilon", [0.3, 3.0, 30.0])
def test_the_dual_reaches_the_primal_of_pot(
    clouds: tuple[np.ndarray, np.ndarray], epsilon: float
) -> None:
    cost = ot.dist(*clouds)
    assert entropic_cost(cost, epsilon) == pytest.approx(oracle(cost, epsilon), rel=1e-4)


@pytest.mark.parametrize("epsilon", [0.3, 3.0, 30.0])
def test_a_cloud_to_itself_costs_the_same_either_way(
    clouds: tuple[np.ndarray, np.ndarray], epsilon: float
) -> None:
    cost = ot.dist(clouds[0], clouds[0])
    expected = pytest.approx(oracle(cost, epsilon), rel=1e-4)
    assert entropic_self_cost(cost, epsilon) == expected
    assert entropic_cost(cost, epsilon) == expected


def test_far_clusters_of_different_weights_neither_underflow_nor_diverge() -> None:
    """Costs are 1,000 times epsilon, and one of two rows there has to go to the other cluster."""
    cost = np.zeros((500, 500))
    cost[:2, 1:] = cost[2:, :1] = 1.0
    assert entropic_cost(cost, 1e-3) == pytest.approx(1 / 500, abs=1e-4)
