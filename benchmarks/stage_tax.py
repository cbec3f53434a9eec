"""What cutting a model costs: all stages chained against the whole model, in one run.

    python benchmarks/stage_tax.py [--rounds 40]

Random weights: a ResNet-50 at 224 px, and text encoders of 6 and 12 layers (384 wide, 32 tokens),
each cut at the candidates that calibration would use, without heads. One thread; whole and chain
take turns. Prints medians of the ratios and their quartiles.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

import numpy as np
import onnx

from calibration.huggingface_source import open_huggingface
from models.cuts import find_cuts
from models.encoding import MASK, blank_rows
from models.graph import graph_inputs, split_graph
from models.machine import machine_name
from models.runtime import Carry, open_session

TOKENS = 32
BATCHES = (1, 8)
STAGES_OF_RESNET = 4  # groups of blocks; an exit behind every block would be fifteen


def save_encoder(folder: Path, layers: int) -> None:
    from tokenizers import Tokenizer, models
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=1000,
        hidden_size=384,
        num_hidden_layers=layers,
        num_attention_heads=12,
        intermediate_size=1536,
    )
    BertModel(config).save_pretrained(folder)
    words = {"[UNK]": 0, "[PAD]": 1}
    Tokenizer(models.WordLevel(words, unk_token="[UNK]")).save(str(folder / "tokenizer.json"))


def save_resnet(folder: Path) -> None:
    from transformers import ConvNextImageProcessor, ResNetConfig, ResNetModel

    ResNetModel(ResNetConfig()).save_pretrained(folder)
    ConvNextImageProcessor(size={"shortest_edge": 224}, crop_pct=1.0).save_pretrained(folder)


def timer(model: onnx.ModelProto, carries: list[tuple[str, ...]], output: str) -> Callable:
    """A function that runs the rows through all stages and gives milliseconds."""
    stages = split_graph(model, carries, [*([] for _ in carries), [output]])
    sessions = [open_session(stage.SerializeToString()) for stage in stages]
    inputs = [[value.name for value in session.get_inputs()] for session in sessions]
    outputs = [[value.name for value in session.get_outputs()] for session in sessions]

    def run(rows: Carry) -> float:
        made = dict(zip(graph_inputs(model), rows, strict=True))
        start = perf_counter()
        for session, reads, gives in zip(sessions, inputs, outputs, strict=True):
            feeds = {name: made[name] for name in reads}
            made.update(zip(gives, session.run(gives, feeds), strict=True))
        return (perf_counter() - start) * 1000

    return run


def measure(name: str, save: Callable[[Path], None], stages: int | None, rounds: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        save(Path(folder))
        source = open_huggingface(Path(folder), labels=10, has_head=False)
    mask = MASK if MASK in graph_inputs(source.model) else None
    cuts = find_cuts(source.model, source.output, mask)
    if stages is not None:
        groups = {cut.name.rsplit(".", 2)[0]: cut for cut in cuts}  # the last block of each
        cuts = list(groups.values())[: stages - 1]
    whole = timer(source.model, [], source.output)
    chain = timer(source.model, [cut.carry for cut in cuts], source.output)
    for batch in BATCHES:
        rows = blank_rows(source.inputs, batch)
        whole(rows), chain(rows)
        times = np.array([(whole(rows), chain(rows)) for _ in range(rounds)])
        low, middle, high = np.quantile(times[:, 1] / times[:, 0], [0.25, 0.5, 0.75])
        print(
            f"{name:<12} {len(cuts) + 1:6} {batch:5} {np.median(times[:, 0]):9.2f} "
            f"{middle:.3f} ({low:.3f} to {high:.3f})",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=40)
    rounds = parser.parse_args().rounds
    print(f"{machine_name()}; one thread, {rounds} rounds")
    print("model        stages batch  whole ms chain / whole (quartiles)")
    measure("ResNet-50", save_resnet, STAGES_OF_RESNET, rounds)
    for layers in (6, 12):
        measure(f"encoder-{layers}", lambda folder, n=layers: save_encoder(folder, n), None, rounds)


if __name__ == "__main__":
    main()
