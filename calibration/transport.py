r"""Wasserstein distances between label-space distributions, by optimal transport (POT).

All distances are 2-Wasserstein and returned as roots, in the unit of the points: for discrete
distributions of n points each,

.. math:: W_2(a, b) = \Big( \min_{P \in \Pi(1/n, 1/n)} \sum_{ij} P_{ij}\, c_{ij} \Big)^{1/2},
    \qquad c_{ij} = \lVert a_i - b_j \rVert^2 .

A shift of all points by a vector v has distance |v| under every one of them.

References
----------
[1] Flamary et al., "POT: Python Optimal Transport", JMLR 22, 2021.
[2] Bonneel et al., "Sliced and Radon Wasserstein barycenters of measures", JMIV 51, 2015.
[3] Peyré and Cuturi, "Computational Optimal Transport", 2019, ch. 2.
"""

from __future__ import annotations

import numpy as np

from calibration.guarantee import Loss, pairwise_loss
from models.manifest import Distance


def exact_distance(
    points: np.ndarray,
    target: np.ndarray,
    seed: int = 0,
    rows: int = 500,
    repeats: int = 5,
) -> Distance:
    """Exact W2 on sub-samples of the same rows of both sides [3].

    The seed decides the sub-samples, so that exits measured with one seed are compared on the same
    rows: their order would be noise otherwise.

    Parameters
    ----------
    points, target : (n, L); row i of both belongs to the same input
    seed : draws the sub-samples
    rows : rows per sub-sample; memory O(rows^2), time about O(rows^3)
    repeats : sub-samples; their mean and standard deviation are returned
    """
    import ot

    values = []
    for draw in range(repeats):
        rng = np.random.default_rng((seed, draw))
        chosen = rng.choice(len(points), min(rows, len(points)), replace=False)
        cost = ot.dist(points[chosen].astype(np.float64), target[chosen].astype(np.float64))
        values.append(_root_cost(cost))
    return Distance(value=float(np.mean(values)), spread=float(np.std(values)))


def sliced_distance(
    points: np.ndarray,
    target: np.ndarray,
    seed: int = 0,
    projections: int = 100,
    repeats: int = 5,
) -> Distance:
    """Sliced W2 on all rows [2], times sqrt(L) so that a shift by v has distance |v|.

    Time O(projections * n log n), memory O(projections * n).
    """
    import ot

    width = points.shape[1]
    values = [
        np.sqrt(width)
        * ot.sliced_wasserstein_distance(
            points.astype(np.float64),
            target.astype(np.float64),
            n_projections=projections,
            seed=seed + draw,
        )
        for draw in range(repeats)
    ]
    return Distance(value=float(np.mean(values)), spread=float(np.std(values)))


def anchored_distance(
    labels: np.ndarray, target: np.ndarray, teacher: np.ndarray, loss: Loss = "set-agreement"
) -> float:
    r"""Teacher-anchored distance between label sets and target sets of the same rows.

    The ground cost is

    .. math:: c_{ij} = loss(labels_i, target_j) + \lVert T_i - T_j \rVert^2 / m,

    with T the teacher's probabilities and m the mean of their squared distances: an answer may only
    be matched with the target of a row that looks alike to the teacher. The root of the optimal
    cost is returned. It is at most the root of the rows' mean loss; it is positive for shuffled
    answers, where a marginal distance is zero, and does not change when only the probabilities
    behind the labels do.

    Parameters
    ----------
    labels, target : bool (n, L)
    teacher : float (n, L)
    loss : between two label sets, in [0, 1]
    """
    import ot

    anchor = ot.dist(teacher.astype(np.float64), teacher.astype(np.float64))  # (n, n), squared
    mean = anchor.mean()
    anchor = anchor / mean if mean > 0 else anchor
    return _root_cost(pairwise_loss(loss, labels, target) + anchor)


def _root_cost(cost: np.ndarray) -> float:
    """Root of the optimal transport cost between two uniform distributions."""
    import ot

    # POT's network simplex takes empty weights for uniform ones
    return float(np.sqrt(max(ot.emd2([], [], cost, numItermax=1_000_000), 0.0)))
