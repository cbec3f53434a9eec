"""A multi-exit torch network becomes one multi-head ONNX graph with known carries."""

from __future__ import annotations

import logging
import warnings
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from typing import TYPE_CHECKING

import torch

from models.backbone import Backbone
from models.heads import output_name

if TYPE_CHECKING:
    from collections.abc import Iterator

    import onnx

    from models.multi_exit import MultiExitNetwork


def export_network(
    network: MultiExitNetwork, example: torch.Tensor, input_name: str = "image"
) -> Backbone:
    """Export `network` in evaluation mode with a dynamic batch.

    Parameters
    ----------
    network : the trained network
    example : (batch, ...) with batch > 1, so that the exporter cannot take the batch for a constant
    input_name : name of the graph's input
    """
    network.eval()
    depth = len(network.stages)
    logits = [output_name(number, "logits") for number in range(1, depth + 1)]
    carries = [f"carry{number}" for number in range(1, depth)]
    with _quiet_exporter():
        program = torch.onnx.export(
            network,
            (example,),
            input_names=[input_name],
            output_names=[*logits, *carries],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            dynamo=True,
            verbose=False,
        )
    if program is None:
        raise RuntimeError("torch.onnx.export(dynamo=True) returned no program")
    return Backbone(
        _hide_carries(program.model_proto, logits), input_name, tuple((c,) for c in carries)
    )


def _hide_carries(model: onnx.ModelProto, logits: list[str]) -> onnx.ModelProto:
    """The carries were outputs only to get their names: keep them as inner tensors."""
    carries = [value for value in model.graph.output if value.name not in logits]
    model.graph.value_info.extend(carries)
    for value in carries:
        model.graph.output.remove(value)
    return model


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """The exporter reports its own internals to users through three channels."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
