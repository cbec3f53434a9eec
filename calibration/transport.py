r"""Wasserstein distances between label-space distributions, by optimal transport (POT [1]).

Pure functions of two clouds of n points with equal weights. Distances are roots, in the unit of the
points: a shift of all points by a vector v has distance |v|. The problem behind them is

.. math:: W_p(a, b) = \Big( \min_{P \in \Pi} \sum_{ij} P_{ij}\, |a_i - b_j|^p \Big)^{1/p},
    \qquad \Pi = \{ P \geq 0 : P 1 = P^T 1 = 1/n \} .

Points are numpy arrays or torch tensors, on any device, float (n, L). They are widened to float64
in blocks where that matters, never all at once.

References
----------
[1] Flamary et al., "POT: Python Optimal Transport", JMLR 22, 2021.
[2] Peyré and Cuturi, "Computational Optimal Transport", 2019, ch. 2 to 4.
[3] Bonneel et al., "Sliced and Radon Wasserstein barycenters of measures", JMIV 51, 2015.
[4] Rowland et al., "Orthogonal estimation of Wasserstein distances", AISTATS 2019.
[5] Bhatia, Jain and Lim, "On the Bures-Wasserstein distance between positive definite matrices",
    Expositiones Mathematicae 37, 2019.
[6] Feydy et al., "Interpolating between optimal transport and MMD using Sinkhorn divergences",
    AISTATS 2019.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, TypeAlias

import numpy as np

from calibration.entropic import entropic_cost, entropic_self_cost
from models.errors import CalibrationError

Points: TypeAlias = Any  # a numpy array or a torch tensor

BLOCK_NUMBERS = 2**20  # of points that are widened, projected or sorted at a time
MOST_PIVOTS = 1_000_000  # of the network simplex; POT warns where they are not enough


def exact_w(points: Points, target: Points, order: Literal[1, 2] = 2) -> float:
    """Exact W1 or W2 by the network simplex [1, 2 ch. 3].

    Time about O(n^3), memory O(n^2), beside O(n^2 L) for the costs: for sub-samples. The costs are
    computed where the points are; POT solves on the CPU whatever the backend.

    Parameters
    ----------
    points, target : (n, L) and (m, L)
    order : p of the ground cost |a_i - b_j|^p
    """
    import ot

    cost = ot.backend.get_backend(points, target).to_numpy(_squared(points, target))
    return float(np.sqrt(_optimal_cost(cost))) if order == 2 else _optimal_cost(np.sqrt(cost))


def sliced_w(points: Points, target: Points, seed: int, projections: int = 100) -> float:
    r"""Sliced W2 [3], scaled to the unit of the points:

    .. math:: \Big( L \cdot \operatorname{mean}_\theta W_2^2(\theta^T a, \theta^T b) \Big)^{1/2} .

    Directions are drawn as orthonormal bases [4], as many whole ones as give `projections`: the
    distance then never exceeds W2, and a shift has exactly its length. With more labels than
    projections both hold in expectation.

    Time O(projections (n log n + n L)), memory O(n), beyond a block of projections.

    Parameters
    ----------
    points, target : (n, L) both
    seed : draws the directions; with one seed, distances are compared along the same ones
    """
    import ot

    nx = ot.backend.get_backend(points, target)
    directions = _directions(points.shape[1], projections, seed)  # (L, projections)
    total = 0.0
    for block in _blocks(directions.shape[1], len(points)):
        # (projections, n): sorting along the last dimension is the quick way
        one, other = (
            nx.sort(nx.dot(nx.from_numpy(directions[:, block].T, type_as=side), side.T), axis=-1)
            for side in (points, target)
        )
        total += float(nx.sum(_wide(one - other) ** 2)) / len(points)
    return float(np.sqrt(points.shape[1] * total / directions.shape[1]))


def bures_w(points: Points, target: Points) -> float:
    r"""W2 between the Gaussians with the same means and covariances, by Bures' formula [5]:

    .. math:: \Big( |m_a - m_b|^2 + \operatorname{tr} \Sigma_a + \operatorname{tr} \Sigma_b
        - 2 \, \lVert F_a^T F_b \rVert_* \Big)^{1/2}, \qquad \Sigma = F F^T .

    It is at most W2, and sees means and covariances only. Singular covariances need no care.

    Time O(n L^2 + L^3), memory O(L^2); O(n^2 L) where n < L. Decompositions run on the CPU.

    Parameters
    ----------
    points, target : (n, L) and (m, L)
    """
    (mean, factor), (target_mean, target_factor) = _moments(points), _moments(target)
    overlap = np.linalg.svd(factor.T @ target_factor, compute_uv=False).sum()
    squares = (factor**2).sum() + (target_factor**2).sum() - 2 * overlap
    return float(np.sqrt(max(((mean - target_mean) ** 2).sum() + squares, 0.0)))


def sinkhorn_w(points: Points, target: Points, regularisation: float = 0.1) -> float:
    r"""Root of the debiased Sinkhorn divergence [6]:

    .. math:: S(a, b) = O(a, b) - \tfrac12 O(a, a) - \tfrac12 O(b, b), \qquad
        O(a, b) = \min_{P \in \Pi} \sum_{ij} P_{ij} c_{ij} + \epsilon \, KL(P \,|\, 1/n^2),

    with c the squared distances and epsilon a share of their mean over a and b. It is zero for
    equal laws and tends to W2 as epsilon falls. Distances below about 0.3 % of the root of that
    mean are lost: they may come out as zero.

    Time and memory O(n^2 L), and O(n^2) for each of up to some hundred iterations.

    Parameters
    ----------
    points, target : (n, L) and (m, L)
    regularisation : epsilon, as a share of the mean cost
    """
    cost = _squared(points, target)
    epsilon = regularisation * float(cost.mean())
    if epsilon == 0:
        return 0.0
    between = entropic_cost(cost, epsilon)
    within = sum(entropic_self_cost(_squared(side, side), epsilon) for side in (points, target))
    return float(np.sqrt(max(between - within / 2, 0.0)))


def label_w1(points: Points, target: Points) -> np.ndarray:
    r"""Exact one-dimensional W1 of every label, over all rows: float64 (L,).

    .. math:: W_1 = \operatorname{mean}_i | a_{(i)} - b_{(i)} |, \text{ both sorted } [2, ch. 2] .

    Time O(L n log n); labels are sorted by the block, so that no copy of all is made.

    Parameters
    ----------
    points, target : (n, L) both
    """
    import ot

    nx = ot.backend.get_backend(points, target)
    distances = []
    for block in _blocks(points.shape[1], len(points)):
        one, other = (nx.sort(_wide(side[:, block].T), axis=-1) for side in (points, target))
        distances.append(nx.to_numpy(nx.mean(nx.abs(one - other), axis=1)))
    return np.concatenate(distances)


def anchored_distance(cost: np.ndarray, teacher: np.ndarray) -> float:
    r"""Teacher-anchored distance between the answers to n rows and the targets of the same rows.

    .. math:: \Big( \min_{P \in \Pi} \sum_{ij} P_{ij} \big( loss_{ij}
        + \lVert T_i - T_j \rVert^2 / m \big) \Big)^{1/2},

    with T the teacher's probabilities and m the mean of their squared distances: an answer may only
    be matched with the target of a row that looks alike to the teacher. It is at most the root of
    the rows' mean loss; it is positive for shuffled answers, where a marginal distance is zero, and
    does not change when only the probabilities behind the label sets do.

    Parameters
    ----------
    cost : (n, n), loss of answer i towards target j, in [0, 1]
    teacher : float (n, L)
    """
    anchor = _squared(teacher, teacher)  # (n, n)
    mean = anchor.mean()
    return float(np.sqrt(_optimal_cost(cost + (anchor / mean if mean > 0 else anchor))))


def on_device(array: np.ndarray, device: str) -> Points:
    """The array itself for "cpu"; a tensor on the GPU for "cuda".

    Raises
    ------
    CalibrationError
        When it is another device, or torch finds no CUDA device.
    """
    if device == "cpu":
        return array
    import torch

    if device != "cuda" or not torch.cuda.is_available():
        found = "torch finds no CUDA device" if device == "cuda" else "no such device is known"
        raise CalibrationError(
            f"W-distances cannot be computed on {device!r}: {found}; expected 'cuda' on a machine "
            "that has one, or 'cpu'"
        )
    return torch.tensor(array, device=device)


def _optimal_cost(cost: np.ndarray) -> float:
    """Cost of the best plan between uniform weights, (n, m)."""
    import ot

    # POT's network simplex takes empty weights for uniform ones
    return max(float(ot.emd2([], [], cost.astype(np.float64), numItermax=MOST_PIVOTS)), 0.0)


def _squared(points: Points, target: Points) -> Points:
    """Squared distances, float64 (n, m)."""
    import ot

    return ot.dist(_wide(points), _wide(target))


def _moments(points: Points) -> tuple[np.ndarray, np.ndarray]:
    """Mean (L,), and F (L, r) with F F^T the covariance."""
    import ot

    nx = ot.backend.get_backend(points)
    rows, width = points.shape
    blocks = list(_blocks(rows, width))
    mean = sum(nx.sum(_wide(points[block]), axis=0) for block in blocks) / rows
    if rows < width:
        return nx.to_numpy(mean), nx.to_numpy(_wide(points) - mean).T / np.sqrt(rows)
    products: Any = 0.0
    for block in blocks:
        centred = _wide(points[block]) - mean
        products = products + nx.dot(centred.T, centred)
    values, vectors = np.linalg.eigh(nx.to_numpy(products / rows))
    return nx.to_numpy(mean), vectors * np.sqrt(np.maximum(values, 0.0))


def _directions(width: int, number: int, seed: int) -> np.ndarray:
    """Orthonormal bases of R^L, or the first vectors of one: (L, number or more)."""
    rng = np.random.default_rng(seed)
    bases = -(-number // width)
    return np.concatenate(
        [np.linalg.qr(rng.normal(size=(width, min(width, number))))[0] for _ in range(bases)],
        axis=1,
    )


def _blocks(count: int, size: int) -> Iterator[slice]:
    """Cut `count` things of `size` numbers each into blocks of about BLOCK_NUMBERS."""
    step = max(BLOCK_NUMBERS // max(size, 1), 1)
    return (slice(start, start + step) for start in range(0, count, step))


def _wide(points: Points) -> Points:
    """As float64; contiguous in numpy, where a sort along the last dimension may follow."""
    if isinstance(points, np.ndarray):
        return np.ascontiguousarray(points, dtype=np.float64)
    return points.double()
