"""Bundles of every kind of rows with random weights, made in a second: small, but served as any."""

from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
from onnx import TensorProto, helper
from PIL import Image

from benchmarks.random_encoder import IDS, random_encoder
from models.bundle import MODEL, Bundle, write_bundle
from models.encoding import MASK
from models.graph_writer import GraphWriter
from models.heads import HeadCalibration, attach_heads
from models.preprocessing import (
    TOKENIZER,
    ImagePreprocessing,
    NumberPreprocessing,
    Preprocessing,
    TensorSpec,
    TextPreprocessing,
)
from tests.manifests import full_manifest

Kind = Literal["numbers", "image", "text"]
KINDS: tuple[Kind, ...] = ("numbers", "image", "text")
LABELS, EXITS, WIDTH, SIDE, MAX_TOKENS = 4, 3, 6, 8, 40
ROW_SHAPES = {"numbers": (WIDTH,), "image": (3, SIDE, SIDE)}


def small_bundle(path: Path, kind: Kind, seed: int = 0) -> Bundle:
    """Three exits, four labels; rows of 6 numbers, images of 8 x 8 pixels, or texts."""
    preprocessing: Preprocessing
    files: dict[str, bytes] = {}
    if kind == "text":
        preprocessing = TextPreprocessing(max_tokens=MAX_TOKENS)
        model, carries = random_encoder(
            seed,
            layers=EXITS,
            hidden=16,
            heads=2,
            inner=16,
            labels=LABELS,
            head_width=8,
            vocabulary=60,
            positions=MAX_TOKENS,
        )
        inputs = [TensorSpec(name=n, dtype="int64", row_shape=(None,)) for n in (IDS, MASK)]
        files[TOKENIZER] = _tokenizer()
    else:
        image = ImagePreprocessing(height=SIDE, width=SIDE)
        preprocessing = image if kind == "image" else NumberPreprocessing()
        model, carries = _perceptron(ROW_SHAPES[kind], seed)
        inputs = [TensorSpec(name="x", row_shape=ROW_SHAPES[kind])]
    manifest = full_manifest(seed, labels=LABELS, exits=EXITS)
    exits = tuple(
        exit_.model_copy(update={"carry": carry})
        for exit_, carry in zip(manifest.exits, [*carries, ()], strict=True)
    )
    changed = {
        "name": f"small-{kind}",
        "inputs": tuple(inputs),
        "preprocessing": preprocessing,
        "exits": exits,
    }
    return write_bundle(path, manifest.model_copy(update=changed), {MODEL: model, **files})


def small_image(side: int = SIDE, seed: int = 0, form: str = "PNG") -> bytes:
    """An image file of random pixels."""
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)
    file = BytesIO()
    Image.fromarray(pixels).save(file, form)
    return file.getvalue()


def _perceptron(row_shape: tuple[int, ...], seed: int) -> tuple[bytes, list[tuple[str, ...]]]:
    """x -> hidden layers, each with the logits of an exit."""
    rng = np.random.default_rng(seed)
    graph = helper.make_graph([], "perceptron", [], [])
    graph.input.append(helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", *row_shape]))
    writer = GraphWriter(graph, "", 18)
    tensor, width = writer.node("Flatten", ["x"], "flat", axis=1), int(np.prod(row_shape))
    hidden = []
    for number in range(1, EXITS + 1):
        up = rng.normal(0, width**-0.5, (width, WIDTH)).astype(np.float32)
        out = rng.normal(0, 1, (WIDTH, LABELS)).astype(np.float32)
        product = writer.node(
            "MatMul", [tensor, writer.constant(f"up{number}", up)], f"up_x{number}"
        )
        tensor, width = writer.node("Tanh", [product], f"hidden{number}"), WIDTH
        weight = writer.constant(f"out{number}", out)
        graph.node.append(helper.make_node("MatMul", [tensor, weight], [f"exit{number}_logits"]))
        graph.value_info.append(
            helper.make_tensor_value_info(tensor, TensorProto.FLOAT, ["batch", WIDTH])
        )
        hidden.append(tensor)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    calibration = HeadCalibration(np.ones(LABELS), np.zeros(LABELS), np.full(LABELS, 0.5))
    headed: onnx.ModelProto = attach_heads(model, [calibration] * EXITS)
    return headed.SerializeToString(), [(tensor,) for tensor in hidden[:-1]]


def _tokenizer() -> bytes:
    """Words w0 to w49; all others are unknown."""
    vocabulary = {"[PAD]": 0, "[CLS]": 1, "[SEP]": 2, "[UNK]": 3}
    vocabulary |= {f"w{number}": number + 4 for number in range(50)}
    special = [
        {"id": name, "ids": [number], "tokens": [name]} for name, number in vocabulary.items()
    ]
    return json.dumps(
        {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [],
            "normalizer": None,
            "pre_tokenizer": {"type": "Whitespace"},
            "post_processor": {
                "type": "TemplateProcessing",
                "single": [
                    {"SpecialToken": {"id": "[CLS]", "type_id": 0}},
                    {"Sequence": {"id": "A", "type_id": 0}},
                    {"SpecialToken": {"id": "[SEP]", "type_id": 0}},
                ],
                "pair": [],
                "special_tokens": {entry["id"]: entry for entry in special},
            },
            "decoder": None,
            "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "[UNK]"},
        }
    ).encode()
