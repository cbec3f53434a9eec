"""A prediction as the tensors that the Open Inference Protocol answers with."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from models.errors import InvalidInput
from service.prediction import Prediction
from service.tensors import Tensor, brief

OUTPUTS = {
    "labels": np.dtype(np.bool_),
    "probabilities": np.dtype(np.float32),
    "exit": np.dtype(np.int32),
    "score": np.dtype(np.float32),
    "certified": np.dtype(np.bool_),
}
"""The first two (b, L), the others (b,)."""
PER_LABEL = ("labels", "probabilities")
ROW = "row"
"""INT32 (b,), of streamed parts only: the rows' places in the request."""


def check_outputs(wanted: Sequence[str]) -> None:
    """Refuse names that no output has, or one that is asked for twice."""
    for place, name in enumerate(wanted):
        if name not in OUTPUTS:
            raise InvalidInput(
                f"outputs: found {brief(name)}, expected any of {', '.join(OUTPUTS)}"
            )
        if name in wanted[:place]:
            raise InvalidInput(f"outputs: found {name!r} twice, expected every output once")


def output_tensors(
    prediction: Prediction, wanted: Sequence[str] = (), streamed: bool = False
) -> list[Tensor]:
    """The tensors wanted, in that order; all when none is named.

    Parameters
    ----------
    streamed : with the rows' places in their request
    """
    routed = prediction.routed
    arrays = {
        "labels": routed.answers.labels,
        "probabilities": routed.answers.probabilities,
        "exit": routed.exits,
        "score": routed.answers.score,
        "certified": prediction.certified,
    }
    tensors = [
        Tensor(name, np.ascontiguousarray(arrays[name], OUTPUTS[name]))
        for name in wanted or OUTPUTS
    ]
    if streamed:
        tensors.append(Tensor(ROW, routed.rows.astype(np.int32)))
    return tensors
