"""Proof, on real rows, that a graph treats its rows independently and keeps them in dimension 0.

Early exit drops rows from a batch in the middle of the model: a model whose rows see each other
would then answer differently.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from models.cuts import Cut, value_tensors
from models.errors import GraphError
from models.graph import declare, extract_graph, graph_inputs
from models.runtime import Carry, open_session

if TYPE_CHECKING:
    import onnx

ROWS = 5
# relative to the largest value of the tensor: the order of sums depends on the batch
TOLERANCE = {"float16": 1e-2, "float32": 1e-4, "float64": 1e-4}


def check_rows(
    model: onnx.ModelProto, cuts: Sequence[Cut], output: str, rows: Carry
) -> tuple[list[Cut], dict[str, np.ndarray]]:
    """Run rows together, reversed, and in two parts; compare.

    Parameters
    ----------
    cuts : candidates
    output : what the last exit reads
    rows : the graph's inputs for at least 2 rows, (b, ...) each

    Returns
    -------
    The cuts whose carry has the rows in dimension 0, and the value of every tensor that they carry
    and of `output` for these rows. The types of the tensors are recorded in `model`.

    Raises
    ------
    GraphError
        When an answer depends on the other rows of the batch; the first tensor that does is named.
    """
    rows = tuple(tensor[:ROWS] for tensor in rows)
    inputs = graph_inputs(model)
    names = [name for cut in cuts for name in cut.carry if name not in inputs]
    names = list(dict.fromkeys([*names, output]))
    together, *others = _runs(model, names, rows)
    apart = {name for name in names if any(_differ(together[name], o[name]) for o in others)}
    count = len(rows[0])
    batched = {name for name in names if together[name].shape[:1] == (count,)} | set(inputs)
    kept = [cut for cut in cuts if batched.issuperset(cut.carry)]
    if output not in batched:
        raise GraphError(
            f"the model's output {output!r} has shape {together[output].shape} for {count} rows, "
            "expected the rows in dimension 0"
        )
    if output in apart or any(apart.intersection(cut.carry) for cut in kept):
        raise GraphError(_mixing(model, output, rows))
    declare(model, [_value_info(name, together[name]) for name in names])
    return kept, together


def _runs(model: onnx.ModelProto, names: Sequence[str], rows: Carry) -> list[dict[str, np.ndarray]]:
    """The tensors for rows run together, in reverse, and in two parts; in the first order each."""
    inputs = graph_inputs(model)
    graph = extract_graph(model, inputs, names)
    session = open_session(graph.SerializeToString())

    def run(part: slice) -> list[np.ndarray]:
        feeds = {name: tensor[part] for name, tensor in zip(inputs, rows, strict=True)}
        outputs: list[np.ndarray] = session.run(list(names), feeds)
        return outputs

    together = run(slice(None))
    backwards = [t[::-1] if np.ndim(t) else t for t in run(slice(None, None, -1))]
    alone, rest = run(slice(0, 1)), run(slice(1, None))
    parts = [_joined(one, other) for one, other in zip(alone, rest, strict=True)]
    return [dict(zip(names, tensors, strict=True)) for tensors in (together, backwards, parts)]


def _joined(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Both parts' rows; a tensor without rows stays as it is."""
    if not isinstance(one, np.ndarray) or one.ndim == 0 or one.shape[1:] != other.shape[1:]:
        return one
    return np.concatenate([one, other])


def _differ(one: np.ndarray, other: np.ndarray) -> bool:
    if one.shape != other.shape:
        return True
    if one.dtype.name not in TOLERANCE:
        return not np.array_equal(one, other)
    tolerance = TOLERANCE[one.dtype.name]
    one, other = one.astype(np.float64), other.astype(np.float64)
    finite = np.isfinite(one)
    if not np.array_equal(finite, np.isfinite(other)):
        return True
    largest = max(float(np.abs(one[finite]).max(initial=0.0)), 1e-6)
    return bool((np.abs(one[finite] - other[finite]) > tolerance * largest).any())


def _mixing(model: onnx.ModelProto, output: str, rows: Carry) -> str:
    """Find the first tensor, in the order of the graph, that depends on the other rows."""
    together, *others = _runs(model, value_tensors(model, output), rows)
    count = len(rows[0])
    for name, value in together.items():
        batched = isinstance(value, np.ndarray) and value.shape[:1] == (count,)
        if batched and any(_differ(value, other[name]) for other in others):
            break
    else:
        name = output
    return (
        f"the model mixes rows: a row's value of tensor {name!r} changes with the other rows of "
        "its batch (found by running the same rows together, in another order, and alone). Rows "
        "that leave early would change the others' answers. Usual causes: batch normalisation in "
        "training mode, dynamic quantisation per tensor, a softmax or mean over dimension 0; "
        "export the model in evaluation mode, with the batch in dimension 0"
    )


def _value_info(name: str, value: np.ndarray) -> onnx.ValueInfoProto:
    from onnx import helper

    element = helper.np_dtype_to_tensor_dtype(value.dtype)
    return helper.make_tensor_value_info(name, element, ["batch", *[None] * (value.ndim - 1)])
