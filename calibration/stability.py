"""How far a layer's answers move when its rows are slightly disturbed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from calibration.feature_columns import column_graph
from calibration.layer_answers import layer_answers
from calibration.transport import exact_w
from models.encoding import MASK
from models.graph import graph_inputs
from models.runtime import Carry, open_session

if TYPE_CHECKING:
    from calibration.layer_answers import LayerHead
    from calibration.layers import LayeredModel
    from models.encoding import Group

NUMBER_NOISE = 0.01  # of the tensor's standard deviation
TOKEN_NOISE = 0.02  # share of the tokens that are replaced
TOKENS = "input_ids"
BATCH = 32


def disturbed(names: Sequence[str], tensors: Carry, rng: np.random.Generator) -> Carry:
    """Encoded rows with a little noise.

    Numbers get Gaussian noise of 1 % of their tensor's standard deviation. Of the tokens, 2 % are
    replaced by tokens of other places, at least one where any may be: not those that the mask
    leaves out, and not a row's first and last one, which encoders put there themselves. All other
    integers and the mask are as they were.

    Parameters
    ----------
    names : of the model's inputs
    tensors : one (b, ...) per input
    """
    mask = dict(zip(names, tensors, strict=True)).get(MASK)
    noisy = []
    for name, tensor in zip(names, tensors, strict=True):
        if np.issubdtype(tensor.dtype, np.floating) and name != MASK:
            noisy.append(_with_noise(tensor, rng))
        elif name == TOKENS:
            noisy.append(_with_other_tokens(tensor, mask, rng))
        else:
            noisy.append(tensor)
    return tuple(noisy)


def noise_distances(
    layered: LayeredModel, heads: Sequence[LayerHead], sample: Group, seed: int
) -> list[float]:
    """W2 between every layer's probabilities for some rows and for the same rows, disturbed.

    Parameters
    ----------
    heads : one per layer
    sample : n encoded rows; exact distances take O(n^2) memory
    seed : draws the noise
    """
    names = graph_inputs(layered.model)
    moved = disturbed(names, sample.tensors, np.random.default_rng(seed))
    before, after = _columns(layered, [sample.tensors, moved])
    distances = []
    for head, *columns in zip(heads, before, after, strict=True):
        one, other = (layer_answers(column, head).probabilities for column in columns)
        distances.append(exact_w(one, other))
    return distances


def _columns(layered: LayeredModel, groups: Sequence[Carry]) -> list[list[np.ndarray]]:
    """Run the pass's graph: every layer's column (n, C) for each group of rows."""
    columns = [layer.column for layer in layered.layers]
    session = open_session(column_graph(layered.model, columns).SerializeToString())
    names = [value.name for value in session.get_inputs()]
    outputs = [column.tensor for column in columns]
    places = [graph_inputs(layered.model).index(name) for name in names]
    found = []
    for tensors in groups:
        batches = [
            session.run(
                outputs,
                {
                    name: tensors[place][start : start + BATCH]
                    for name, place in zip(names, places, strict=True)
                },
            )
            for start in range(0, len(tensors[0]), BATCH)
        ]
        found.append([np.concatenate(parts) for parts in zip(*batches, strict=True)])
    return found


def _with_noise(tensor: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    wide = tensor.astype(np.float64)
    noise = rng.normal(scale=NUMBER_NOISE * wide.std(), size=tensor.shape)
    return (wide + noise).astype(tensor.dtype)


def _with_other_tokens(
    tokens: np.ndarray, mask: np.ndarray | None, rng: np.random.Generator
) -> np.ndarray:
    """Tokens int (b, T) by the mask (b, T), all of them real where there is none."""
    real = np.ones(tokens.shape, bool) if mask is None else mask.astype(bool)
    before = np.cumsum(real, axis=1) - real  # real tokens of the row before this place
    behind = real.sum(axis=1, keepdims=True) - before - 1
    places = np.argwhere(real & (before > 0) & (behind > 0))  # (places, 2)
    count = min(max(round(TOKEN_NOISE * len(places)), 1), len(places))
    chosen, others = (
        tuple(places[rng.choice(len(places), count, replace=False)].T) for _ in range(2)
    )
    noisy = tokens.copy()
    noisy[chosen] = tokens[others]
    return noisy
