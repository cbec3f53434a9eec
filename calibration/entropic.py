r"""Optimal transport with entropic regularisation, by Sinkhorn's iteration.

For costs c (n, m) between uniform weights,

.. math:: O = \min_P \sum_{ij} P_{ij} c_{ij} + \epsilon \, KL(P \,|\, 1/nm)
    = \max_{f, g} \operatorname{mean} f + \operatorname{mean} g, \qquad
    P_{ij} = \tfrac{1}{nm} \, e^{(f_i + g_j - c_{ij}) / \epsilon} ,

where the marginals of P are uniform. Time O(n m) per iteration, of which some tens to hundreds are
needed; memory O(n m). Arrays may be of any backend of POT.

References
----------
[1] Peyré and Cuturi, "Computational Optimal Transport", 2019, ch. 4.
[2] Feydy et al., "Interpolating between optimal transport and MMD using Sinkhorn divergences",
    AISTATS 2019.
"""

from __future__ import annotations

from typing import Any

import numpy as np

MOST_STEPS = 1000  # of the iteration at one epsilon
TOLERANCE = 1e-4  # mean relative error of the marginals at which the iteration ends


def entropic_cost(cost: Any, epsilon: float) -> float:
    """O between two clouds, in the unit of the costs.

    Epsilon falls towards its value in steps, and the potentials of each step are the start of the
    next [1]: neither the kernel underflows nor the factors overflow.

    Parameters
    ----------
    cost : float64 (n, m), not all zero
    """
    import ot

    nx = ot.backend.get_backend(cost)
    f = nx.min(cost, axis=1)  # (n,)
    g = nx.min(cost - f[:, None], axis=0)  # (m,)
    for step in _falling(float(cost.max()), epsilon):
        kernel = nx.exp((f[:, None] + g[None] - cost) / step)  # (n, m)
        right = nx.ones(len(g), type_as=cost)
        for _ in range(MOST_STEPS):
            left = len(g) / nx.dot(kernel, right)
            column = nx.dot(left, kernel) / len(f)
            if float(nx.mean(nx.abs(right * column - 1))) < TOLERANCE:
                break
            right = 1 / column
        f, g = f + step * nx.log(left), g + step * nx.log(right)
    return float(f.mean() + g.mean())


def entropic_self_cost(cost: Any, epsilon: float) -> float:
    """O between a cloud and itself, in the unit of the costs.

    The two potentials are equal. Averaging them makes the iteration so quick [2] that a hundredth
    of the tolerance takes some ten steps.

    Parameters
    ----------
    cost : float64 (n, n), symmetric, zero along the diagonal
    """
    import ot

    nx = ot.backend.get_backend(cost)
    kernel = nx.exp(-cost / epsilon)
    scale = nx.ones(len(cost), type_as=cost)
    for _ in range(MOST_STEPS):
        row = nx.dot(kernel, scale) / len(cost)
        if float(nx.mean(nx.abs(scale * row - 1))) < TOLERANCE / 100:
            break
        scale = nx.sqrt(scale / row)
    return 2 * epsilon * float(nx.log(scale).mean())


def _falling(largest: float, epsilon: float) -> list[float]:
    """Regularisations from about a twentieth of the largest cost down to epsilon."""
    steps = max(int(np.ceil(np.log(largest / 20 / epsilon) / np.log(4))), 0)
    return [epsilon * 4.0**step for step in range(steps, -1, -1)]
