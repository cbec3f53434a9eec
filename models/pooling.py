"""Pooled features in the graph: any carry tensor becomes one vector per row, which a head reads."""

from __future__ import annotations

import numpy as np

from models.errors import GraphError
from models.graph_writer import GraphWriter


def add_pooling(writer: GraphWriter, tensor: str, rank: int, mask: str | None) -> str:
    """Append the pooling of `tensor`; returns the pooled tensor, float32 (batch, features).

    Maps (batch, C, H, W): mean and maximum over the map. Sequences (batch, T, C): mean over the
    tokens that the mask keeps, beside the first token. Vectors (batch, C): as they are.

    Raises
    ------
    GraphError
        For any other rank.
    """
    values = writer.node("Cast", [tensor], "values", to=1)
    if rank == 4:
        mean = writer.node("GlobalAveragePool", [values], "map_mean")
        largest = writer.node("GlobalMaxPool", [values], "map_max")
        pooled = writer.node("Concat", [mean, largest], "map_pooled", axis=1)
        return writer.node("Flatten", [pooled], "pooled", axis=1)
    if rank == 3:
        first = writer.constant("first", np.array(0, np.int64))
        token = writer.node("Gather", [values, first], "first_token", axis=1)
        mean = _masked_mean(writer, values, mask)
        return writer.node("Concat", [mean, token], "pooled", axis=1)
    if rank == 2:
        return writer.node("Identity", [values], "pooled")
    raise GraphError(
        f"tensor {tensor!r} has rank {rank}, expected 2 (batch, C), 3 (batch, T, C) or 4 "
        "(batch, C, H, W): no head can stand there"
    )


def _masked_mean(writer: GraphWriter, values: str, mask: str | None) -> str:
    if mask is None:
        return writer.reduce("ReduceMean", values, 1, "mean")
    kept = writer.node("Cast", [mask], "kept", to=1)  # (batch, T)
    weighted = writer.node("Mul", [values, writer.unsqueeze(kept, 2, "weights")], "weighted")
    total = writer.reduce("ReduceSum", weighted, 1, "total")
    count = writer.unsqueeze(
        writer.reduce("ReduceSum", kept, 1, "count"), 1, "count_column"
    )  # (batch, 1)
    at_least_one = writer.node("Max", [count, writer.constant("one", np.ones(1, np.float32))], "n")
    return writer.node("Div", [total, at_least_one], "mean")


def pooled_width(shape: tuple[int, ...]) -> int:
    """Columns that `add_pooling` makes of a tensor of this shape."""
    channels = {2: 1, 3: 2, 4: 1}  # rank -> dimension
    return shape[channels[len(shape)]] * (1 if len(shape) == 2 else 2)
