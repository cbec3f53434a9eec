"""What calibration costs beside one pass of the bare backbone over the same data, in one run.

    python benchmarks/calibration_speed.py --model DIRECTORY --data train.tsv [--label-names FILE]

Encodes nothing that the pass does not encode: both passes read, tokenize and batch alike, the bare
one gives the last hidden state's first value only. Prints the feature pass and everything after it
(heads, calibration, W, placement, certificate) as shares of the bare pass, and peak memory.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
from pathlib import Path
from time import perf_counter

import numpy as np
import onnx
from rich.progress import Progress

from calibration.build import sample_rows
from calibration.dataset import Dataset
from calibration.feature_columns import Column
from calibration.features import PassOptions, run_pass
from calibration.input_choice import InputOptions, choose_preprocessing
from calibration.layers import layers_of_source
from calibration.options import CalibrationData, CalibrationOptions
from calibration.pipeline import calibrate
from calibration.readers import DataOptions, open_dataset
from calibration.source import Source
from calibration.sources import open_source
from calibration.splits import assign_splits
from models.encoders import open_encoder
from models.encoding import Encoder
from models.graph_writer import GraphWriter, default_opset
from models.machine import machine_name


def bare_graph(source: Source) -> tuple[onnx.ModelProto, Column]:
    """The backbone with one number per row as its output: (batch, tokens, C) -> (batch, 1)."""
    model = onnx.ModelProto()
    model.CopyFrom(source.model)
    writer = GraphWriter(model.graph, "bare_", default_opset(model))
    first = writer.constant("first", np.array(0, np.int64))
    token = writer.node("Gather", [source.output, first], "token", axis=1)
    one = writer.constant("one", np.array([0], np.int64))
    return model, Column(writer.node("Gather", [token, one], "value", axis=1), "float32", 1)


def bare_pass(source: Source, encoder: Encoder, dataset: Dataset, progress: Progress) -> float:
    model, column = bare_graph(source)
    with tempfile.TemporaryDirectory() as cache:
        options = PassOptions(Path(cache))
        return run_pass(model, [column], encoder, "", dataset, options, progress, "bare").seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--label-names", type=Path)
    arguments = parser.parse_args()
    dataset = open_dataset(DataOptions(path=arguments.data, label_names=arguments.label_names))
    labels = len(dataset.names)
    source = open_source(arguments.model, labels, has_head=False)
    preprocessing, files = choose_preprocessing(source, dataset, InputOptions())
    encoder = open_encoder(preprocessing, source.inputs, files)
    sample = sample_rows(dataset, encoder)
    layered = layers_of_source(source, sample.tensors, labels)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"{machine_name()}; {len(dataset)} rows, {labels} labels, {len(layered.layers)} layers")
    with Progress() as progress, tempfile.TemporaryDirectory() as cache:
        before = bare_pass(source, encoder, dataset, progress)
        data = CalibrationData(
            dataset, assign_splits(dataset, 0), encoder, preprocessing, files, sample
        )
        start = perf_counter()
        options = CalibrationOptions("speed", PassOptions(Path(cache)))
        manifest, _, _ = calibrate(layered, data, options, progress)
        total = perf_counter() - start
        behind = bare_pass(source, encoder, dataset, progress)
    bare, features = (before + behind) / 2, manifest.facts["pass_seconds"]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"bare pass, before and behind: {before:.1f} s, {behind:.1f} s")
    print(f"feature pass: {features:.1f} s, {features / bare:.3f} of the bare pass")
    print(f"everything after it: {total - features:.1f} s, {(total - features) / bare:.3f}")
    print(f"peak memory: {peak / 2**20:.2f} GiB, {(peak - memory) / 2**20:.2f} beyond the model's")


if __name__ == "__main__":
    main()
