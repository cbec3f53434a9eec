"""Joining rows of carries on a device: one small graph per number of pieces.

Rows never pass through the host; only their places go to the device.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from models.device_session import Device, host_value

if TYPE_CHECKING:
    import onnxruntime

MOST_PIECES = 8  # that one graph joins; more are joined in rounds, so that graphs stay few
OPSET = 18
INT64 = 7  # ONNX element type

Tensors = tuple["onnxruntime.OrtValue", ...]

Part = tuple[Tensors, np.ndarray]
"""Tensors (n, ...) on the device, and the places of b of their rows, int (b,) on the host."""


class DeviceJoin:
    """Joins rows of carries of one kind.

    Its graphs are opened and run once when it is made, as the first run of a session is slow.

    Parameters
    ----------
    elements : ONNX element type of every tensor of the carry
    """

    def __init__(self, elements: Sequence[int], device: Device) -> None:
        counts = range(1, MOST_PIECES + 1)
        self._sessions = [device.open(join_model(elements, pieces)) for pieces in counts]
        row = tuple(device.blank(element) for element in elements)
        for pieces in counts:
            self._join([(row, np.zeros(1, np.int64))] * pieces)

    def join(self, parts: Sequence[Part]) -> Tensors:
        """Rows of all parts, in their order: tensors (sum of b, ...)."""
        while len(parts) > MOST_PIECES:
            groups = [parts[at : at + MOST_PIECES] for at in range(0, len(parts), MOST_PIECES)]
            parts = [self._as_part(group) for group in groups]
        return self._join(parts)

    def _as_part(self, parts: Sequence[Part]) -> Part:
        if len(parts) == 1:
            return parts[0]
        return self._join(parts), np.arange(sum(len(rows) for _, rows in parts))

    def _join(self, parts: Sequence[Part]) -> Tensors:
        values = []
        for tensors, rows in parts:
            values += [host_value(rows.astype(np.int64, copy=False)), *tensors]
        return tuple(self._sessions[len(parts) - 1].run(values))


def join_model(elements: Sequence[int], pieces: int) -> bytes:
    """A graph that takes `rows` and then the tensors of every piece, and gives them joined.

    Parameters
    ----------
    elements : ONNX element type of every tensor of a carry
    """
    from onnx import helper

    nodes, inputs = [], []
    for piece in range(pieces):
        rows = f"rows{piece}"
        inputs.append(helper.make_tensor_value_info(rows, INT64, ["rows"]))
        for place, element in enumerate(elements):
            whole, taken = f"whole{piece}_{place}", f"taken{piece}_{place}"
            # any rank: only the rows are told apart
            inputs.append(helper.make_tensor_value_info(whole, element, None))
            nodes.append(helper.make_node("Gather", [whole, rows], [taken], axis=0))
    outputs = []
    for place, element in enumerate(elements):
        taken_of = [f"taken{piece}_{place}" for piece in range(pieces)]
        nodes.append(helper.make_node("Concat", taken_of, [f"joined{place}"], axis=0))
        outputs.append(helper.make_tensor_value_info(f"joined{place}", element, None))
    graph = helper.make_graph(nodes, "join", inputs, outputs)
    opset = helper.make_opsetid("", OPSET)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=10)
    return bytes(model.SerializeToString())
