"""How things grow: rows per second by lanes, calibration by data and model, loading by size.

    python benchmarks/scale.py [--bundle bundles/digits] [--out docs/results.md] [--quick]

Everything on this machine and in one run; a bundle's costs by batch are those it was made with.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np
import onnx
from engine_case import Case, digits_case
from engine_load import answered_per_second
from engine_table import Table, spread
from onnx import TensorProto, helper
from protocol_bundle import write_free_bundle
from random_encoder import random_encoder
from result_page import write_section

from models.bundle import MODEL, read_bundle, write_bundle
from models.graph_writer import GraphWriter
from models.machine import available_cores, machine_name
from models.manifest import Exit
from models.preprocessing import TensorSpec
from models.runtime import StageRuntime
from service.dataplane import Dataplane
from service.metrics import Metrics
from service.prepared_rows import PreparedRows
from service.settings import Settings

HEADING = "## Scale"
SIZE, CLIENTS = 16, 32
MIB = 2**20
COLUMNS, WIDTH, OPSET = 32, 128, 18
POOL = 1024


@dataclass(frozen=True)
class Plan:
    """What is varied, and how long it is measured.

    rounds, seconds : of a saturating load, after a third of it
    base : rows, labels and layers of a calibration, of which one at a time is changed
    encoders : vocabulary of random encoders whose bundles are loaded
    loads : how often each is
    """

    rounds: int = 3
    seconds: float = 2.0
    base: tuple[int, int, int] = (4000, 10, 4)
    rows: tuple[int, ...] = (2000, 16000, 64000)
    labels: tuple[int, ...] = (50, 250)
    layers: tuple[int, ...] = (8, 16)
    encoders: tuple[int, ...] = (1000, 30522, 120000, 240000)
    loads: int = 3


QUICK = Plan(1, 0.3, (1500, 4, 3), (), (), (), (1000,), 1)


def lanes_table(case: Case, bundle: Path, plan: Plan) -> Table:
    """Rows per second by lanes, exits on and off."""
    counts = range(1, available_cores() + 1)
    requests = [PreparedRows(groups) for groups in case.pool.requests(SIZE)]
    planes = {
        (lanes, mode): _open(bundle, lanes, mode)
        for lanes in counts
        for mode in ("rebatch", "monolith")
    }
    found: dict[tuple[int, str], list[float]] = {key: [] for key in planes}
    for _ in range(plan.rounds):
        for key, plane in planes.items():
            warm, seconds = plan.seconds / 3, plan.seconds
            load = answered_per_second(plane.predict, requests, CLIENTS, warm, seconds)
            found[key].append(SIZE * asyncio.run(load))
    for plane in planes.values():
        plane.close()
    rows = [
        (
            str(lanes),
            spread(found[lanes, "rebatch"], 0),
            spread(np.array(found[lanes, "rebatch"]) / found[1, "rebatch"], 2),
            spread(found[lanes, "monolith"], 0),
            spread(np.array(found[lanes, "monolith"]) / found[1, "monolith"], 2),
        )
        for lanes in counts
    ]
    return Table(
        f"Rows per second by lanes, {case.name}",
        f"Requests of {SIZE} rows from {CLIENTS} clients in the same process, one thread a lane; "
        "the clients' and the dataplane's own work shares the cores.",
        ("lanes", "certified, rows/s", "over one lane", "exits off, rows/s", "over one lane"),
        rows,
    )


def _open(bundle: Path, lanes: int, mode: str) -> Dataplane:
    settings = Settings(bundle=str(bundle), lanes=lanes, threads=1, mode=mode)
    plane = Dataplane(read_bundle(bundle), settings, Metrics())
    asyncio.run(plane.warm_up())
    return plane


def calibration_table(plan: Plan) -> Table:
    """Seconds of `offramp calibrate` by rows, labels and layers."""
    rows, labels, layers = plan.base
    cells = [
        (rows, labels, layers),
        *((more, labels, layers) for more in plan.rows),
        *((rows, more, layers) for more in plan.labels),
        *((rows, labels, more) for more in plan.layers),
    ]
    return Table(
        "Calibration",
        f"Seconds of `offramp calibrate` from its start to its bundle, of a network of {WIDTH} "
        f"units a layer on rows of {COLUMNS} numbers; a row costs it nearly nothing, so that what "
        "grows is calibration itself. One run each.",
        ("rows", "labels", "layers", "seconds"),
        [(f"{n:,}", str(L), str(K), f"{_calibrated(n, L, K):.1f}") for n, L, K in cells],
    )


def _calibrated(rows: int, labels: int, layers: int) -> float:
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        onnx.save(_network(rng, labels, layers), folder / "model.onnx")
        x = rng.normal(size=(rows, COLUMNS)).astype(np.float32)
        hidden = np.maximum(x @ rng.normal(size=(COLUMNS, 24)), 0)
        logits = hidden @ rng.normal(size=(24, labels))
        y = logits > np.quantile(logits, 0.8, axis=0)
        np.savez(folder / "data.npz", x=x, y=y.astype(np.uint8))
        command = [
            Path(sys.executable).parent / "offramp",
            "calibrate",
            "--model",
            folder / "model.onnx",
            "--data",
            folder / "data.npz",
            "--out",
            folder / "bundle",
        ]
        environment = {**os.environ, "XDG_CACHE_HOME": name}
        begun = perf_counter()
        subprocess.run(
            list(map(str, command)), check=True, env=environment, stdout=subprocess.DEVNULL
        )
        return perf_counter() - begun


def _network(rng: np.random.Generator, labels: int, layers: int) -> onnx.ModelProto:
    """(batch, 32) -> layers of 128 units -> logits (batch, labels), weights at random."""
    graph = helper.make_graph([], "network", [], [])
    graph.input.append(helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", COLUMNS]))
    writer, tensor, width = GraphWriter(graph, "", OPSET), "x", COLUMNS
    for number in range(1, layers + 1):
        weights = rng.normal(0, (2 / width) ** 0.5, (width, WIDTH)).astype(np.float32)
        product = writer.node(
            "MatMul", [tensor, writer.constant(f"w{number}", weights)], f"p{number}"
        )
        tensor, width = writer.node("Relu", [product], f"h{number}"), WIDTH
    weights = rng.normal(0, width**-0.5, (width, labels)).astype(np.float32)
    logits = writer.node("MatMul", [tensor, writer.constant("out", weights)], "logits")
    graph.output.append(helper.make_tensor_value_info(logits, TensorProto.FLOAT, ["batch", labels]))
    opset = helper.make_opsetid("", OPSET)
    return helper.make_model(graph, opset_imports=[opset], ir_version=10)


def loading_table(plan: Plan) -> Table:
    """Seconds from a bundle's directory to sessions that run, by the size of its model."""
    rows = []
    with tempfile.TemporaryDirectory() as name:
        for vocabulary in plan.encoders:
            path = Path(name) / f"encoder{vocabulary}"
            size = _write_encoder(path, vocabulary)
            read, opened = [], []
            for _ in range(plan.loads):
                begun = perf_counter()
                bundle = read_bundle(path)
                between = perf_counter()
                StageRuntime(bundle.model, bundle.manifest.carries)
                read.append(between - begun)
                opened.append(perf_counter() - between)
            rows.append((f"{size / MIB:.0f}", spread(read, 2), spread(opened, 2)))
    return Table(
        "Loading a bundle",
        "Seconds to read and verify it, and to split the graph and open its six sessions; encoders "
        "with random weights and larger and larger vocabularies.",
        ("MiB", "read and verified", "split and opened"),
        rows,
    )


def _write_encoder(path: Path, vocabulary: int) -> int:
    """Bytes of the model."""
    model, carries = random_encoder(vocabulary=vocabulary)
    free = write_free_bundle(path.with_name(f"{path.name}-free"), "encoder", (16,)).manifest
    tokens = tuple(
        TensorSpec(name=name, dtype="int64", row_shape=(None,))
        for name in ("input_ids", "attention_mask")
    )
    exits = tuple(
        Exit(
            number=number,
            layer=str(number),
            carry=tuple(carries[number - 1]) if number <= len(carries) else (),
            threshold=0.0 if number <= len(carries) else None,
        )
        for number in range(1, len(carries) + 2)
    )
    names = tuple(f"label{number}" for number in range(28))
    changed = {"exits": exits, "inputs": tokens, "labels": names}
    write_bundle(path, free.model_copy(update=changed), {MODEL: model})
    return len(model)


def cost_table(path: Path) -> Table:
    """Milliseconds by batch, as the bundle has them."""
    manifest = read_bundle(path).manifest
    costs = manifest.costs
    stages = list(zip(*costs.stage_milliseconds, strict=True))
    rows = [
        (
            str(batch),
            f"{costs.whole_milliseconds[place] / batch:.3f}",
            *(f"{value / batch:.3f}" for value in stages[place]),
        )
        for place, batch in enumerate(costs.batch_rows)
    ]
    return Table(
        f"Cost of a row by batch, {manifest.name}",
        f"Milliseconds on one thread, measured by calibration on {costs.machine}: of the model in "
        "one piece, and of every stage.",
        ("rows of a batch", "whole", *(f"stage {exit_.number}" for exit_ in manifest.exits)),
        rows,
    )


def parse(command: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--bundle", type=Path, default=Path("bundles/digits"))
    parser.add_argument("--out", type=Path, help="page whose section is replaced")
    parser.add_argument("--quick", action="store_true", help="short, to see that all of it runs")
    return parser.parse_args(command)


def main(command: list[str]) -> None:
    begun, arguments = perf_counter(), parse(command)
    plan = QUICK if arguments.quick else Plan()
    case = digits_case(arguments.bundle, POOL)
    tables = []
    for table in (
        lambda: lanes_table(case, arguments.bundle, plan),
        lambda: cost_table(arguments.bundle),
        lambda: calibration_table(plan),
        lambda: loading_table(plan),
    ):
        tables.append(table())
        print(tables[-1].plain(), flush=True)
    if arguments.out:
        page = f"{HEADING}\n\n    python benchmarks/scale.py\n\n* {machine_name()}\n"
        write_section(arguments.out, HEADING, [page, *(table.markdown() for table in tables)])
    print(f"took {perf_counter() - begun:.0f} s")


if __name__ == "__main__":
    main(sys.argv[1:])
