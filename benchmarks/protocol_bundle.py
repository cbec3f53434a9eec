"""A bundle whose stages cost nothing: what is left of a request is the work of the doors.

Two exits over the first columns of a row, however large it is; every row leaves at the first.
Nothing was calibrated: everything that calibration would have measured is zero.
"""

from __future__ import annotations

from math import prod
from pathlib import Path

import numpy as np
from onnx import ModelProto, TensorProto, helper

from models.bundle import Bundle, write_bundle
from models.graph_writer import GraphWriter
from models.heads import HeadCalibration, attach_heads
from models.manifest import Certificate, Exit, Manifest, Promise
from models.measurements import (
    Comparison,
    Costs,
    Distances,
    Estimate,
    LayerProfile,
    Measurement,
    PolicyQuality,
    Profile,
    ScoreChoice,
    Stability,
)
from models.preprocessing import TensorSpec

INPUT = "x"
LABELS = ("animal", "indoors", "night", "people")
COLUMNS = 16  # of a row that are looked at
OPSET = 18
NOTHING = Estimate(value=0, low=0, high=0)
UNCHANGED = Comparison(policy=0, full_depth=0, difference=NOTHING)


def write_free_bundle(path: Path, name: str, row_shape: tuple[int, ...]) -> Bundle:
    """Write the bundle.

    Parameters
    ----------
    name : of the model
    row_shape : of its input `x`, float32 (batch, *row_shape), of at least `COLUMNS` numbers
    """
    calibration = HeadCalibration(
        np.ones(len(LABELS)), np.zeros(len(LABELS)), np.full(len(LABELS), 0.5)
    )
    model = attach_heads(_graph(row_shape), [calibration, calibration])
    manifest = _manifest(name, TensorSpec(name=INPUT, row_shape=row_shape))
    return write_bundle(path, manifest, {"model.onnx": model.SerializeToString()})


def _graph(row_shape: tuple[int, ...]) -> ModelProto:
    """(batch, *row_shape) -> the first columns (batch, 16) -> logits (batch, L), twice."""
    if prod(row_shape) < COLUMNS:
        raise ValueError(f"found rows of shape {row_shape}, expected at least {COLUMNS} numbers")
    graph = helper.make_graph([], "free", [], [])
    shape: list[str | int | None] = ["batch", *row_shape]
    graph.input.append(helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, shape))
    writer = GraphWriter(graph, "", OPSET)
    bounds = [
        writer.constant(bound, np.array([value], np.int64))
        for bound, value in (("first", 0), ("end", COLUMNS), ("columns", 1))
    ]
    flat = writer.node("Flatten", [INPUT], "flat", axis=1)
    carry = writer.node("Slice", [flat, *bounds], "hidden1")
    last = writer.node("Relu", [carry], "hidden2")
    weights = writer.constant("weights", np.eye(COLUMNS, len(LABELS), dtype=np.float32))
    writer.node("MatMul", [carry, weights], "exit1_logits")
    writer.node("MatMul", [last, weights], "exit2_logits")
    graph.value_info.append(
        helper.make_tensor_value_info(carry, TensorProto.FLOAT, ["batch", COLUMNS])
    )
    opset = helper.make_opsetid("", OPSET)
    return helper.make_model(graph, opset_imports=[opset], ir_version=10)


def _manifest(name: str, spec: TensorSpec) -> Manifest:
    return Manifest(
        name=name,
        labels=LABELS,
        inputs=(spec,),
        exits=(
            Exit(number=1, layer="first", carry=("hidden1",), threshold=0.0),
            Exit(number=2, layer="last", carry=(), threshold=None),
        ),
        score=ScoreChoice(kind="margin", auroc={}, frozen_labels=False),
        certificate=_no_certificate(),
        profile=_no_profile(),
        placement=(),
        threshold_curves=(),
        test=Measurement(exits=(), policy=_no_quality(), labels=(), curves=()),
        costs=Costs(
            machine="none",
            batch_rows=(1,),
            stage_milliseconds=((0.0,), (0.0,)),
            beyond_milliseconds=(0.0,),
            exit_milliseconds=((0.0,),),
            whole_milliseconds=(0.0,),
        ),
        splits={},
        facts={},
    )


def _no_certificate() -> Certificate:
    promise = Promise(
        guarantee="set-agreement", against="model", epsilon=0.5, mean_loss=0, p_value=1
    )
    return Certificate(
        promises=(promise,),
        delta=0.5,
        method="none",
        certified=False,
        rows=0,
        label_epsilon=None,
        label_floor=(),
        policies_on_path=0,
        policies_passed=0,
        sentence="Nothing was certified: this bundle is for measuring the doors.",
    )


def _no_profile() -> Profile:
    distances = Distances(
        w2=NOTHING, w1=NOTHING, sliced=NOTHING, bures=NOTHING, sinkhorn=NOTHING, per_label=()
    )
    layer = LayerProfile(
        layer="last",
        milliseconds=0,
        to_teacher=distances,
        to_labels=distances,
        micro_f1=NOTHING,
        label_f1=(),
        stability=Stability(batches=0, seeds=None, noise=None),
    )
    return Profile(
        layers=(layer,),
        batch_rows=1,
        floor_teacher=distances,
        floor_labels=distances,
        correlation=None,
    )


def _no_quality() -> PolicyQuality:
    return PolicyQuality(
        micro_f1=UNCHANGED,
        macro_f1=UNCHANGED,
        mean_average_precision=None,
        set_agreement=1,
        computed_time=0,
        computed_time_single=0,
    )
