"""A bundle whose stages take milliseconds a row, as those of encoders do.

The model of the demo answers a row quicker than the doors read one; under a load that is too much
for the service, the doors would be what gives way. Here the stages are: four of them, each of many
products with an orthogonal matrix. Nothing was calibrated.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import ModelProto, TensorProto, helper
from protocol_bundle import INPUT, LABELS, write_free_bundle

from models.bundle import MODEL, Bundle, write_bundle
from models.graph_writer import GraphWriter
from models.heads import HeadCalibration, attach_heads
from models.manifest import Exit
from models.runtime import StageRuntime

NAME = "heavy"
EXITS, COLUMNS, WIDTH, PRODUCTS = 4, 16, 512, 384
OPSET = 18
LEAVING = 0.4
"""Of the rows that come to an exit; the last takes the others."""
PROBES = 512


def write_heavy_bundle(path: Path, seed: int = 0) -> Bundle:
    """Write the bundle; rows are 16 numbers."""
    calibration = HeadCalibration(
        np.ones(len(LABELS)), np.zeros(len(LABELS)), np.full(len(LABELS), 0.5)
    )
    rng = np.random.default_rng(seed)
    model = attach_heads(_graph(rng), [calibration] * EXITS).SerializeToString()
    carries = [(f"hidden{number}",) for number in range(1, EXITS)]
    probes = rng.normal(size=(PROBES, COLUMNS)).astype(np.float32)
    scores = [exit_.score for exit_ in StageRuntime(model, carries).all_exits((probes,))]
    free = write_free_bundle(path.with_name(f"{path.name}-free"), NAME, (COLUMNS,))
    changed = {"exits": _exits(carries, scores)}
    return write_bundle(path, free.manifest.model_copy(update=changed), {MODEL: model})


def _graph(rng: np.random.Generator) -> ModelProto:
    """(batch, 16) -> hidden (batch, 512) and logits (batch, L), four times."""
    graph = helper.make_graph([], NAME, [], [])
    graph.input.append(helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["batch", COLUMNS]))
    writer = GraphWriter(graph, "", OPSET)
    up = rng.normal(0, COLUMNS**-0.5, (COLUMNS, WIDTH)).astype(np.float32)
    tensor = writer.node("MatMul", [INPUT, writer.constant("up", up)], "spread")
    for number in range(1, EXITS + 1):
        turn = np.linalg.qr(rng.normal(size=(WIDTH, WIDTH)))[0].astype(np.float32)
        matrix = writer.constant(f"turn{number}", turn)
        for product in range(PRODUCTS):
            tensor = writer.node("MatMul", [tensor, matrix], f"turned{number}_{product}")
        tensor = writer.node("Tanh", [tensor], f"hidden{number}")
        out = rng.normal(0, 4 * WIDTH**-0.5, (WIDTH, len(LABELS))).astype(np.float32)
        weights = writer.constant(f"out{number}", out)
        writer.node("MatMul", [tensor, weights], f"exit{number}_logits")
        graph.value_info.append(
            helper.make_tensor_value_info(tensor, TensorProto.FLOAT, ["batch", WIDTH])
        )
    opset = helper.make_opsetid("", OPSET)
    return helper.make_model(graph, opset_imports=[opset], ir_version=10)


def _exits(carries: list[tuple[str, ...]], scores: list[np.ndarray]) -> tuple[Exit, ...]:
    """With thresholds that the same share of the rows reaches at every exit."""
    exits, left = [], np.ones(PROBES, bool)
    for number, (carry, score) in enumerate(zip(carries, scores, strict=False), start=1):
        threshold = float(np.float32(np.quantile(score[left], 1 - LEAVING)))
        left &= score < threshold
        exits.append(Exit(number=number, layer=f"{number}", carry=carry, threshold=threshold))
    return (*exits, Exit(number=EXITS, layer=f"{EXITS}", carry=(), threshold=None))
