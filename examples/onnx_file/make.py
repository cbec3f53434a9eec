"""A small residual network on numbers, trained with torch and exported to ONNX, and rows for it.

    python examples/onnx_file/make.py [--out FOLDER] [--seed 0] [--rows 12000] [--epochs 3]

Writes model.onnx and data.npz (x, y, labels). The rows are those of scikit-learn's
make_multilabel_classification: word counts of documents that are about some of ten topics. The
network is trained on rows of its own, so that those of data.npz are new to it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import make_multilabel_classification
from torch import Tensor, nn
from torch.nn import functional as F

FEATURES, LABELS = 60, 10
WORDS = 250  # per document; with more words topics are easier to tell apart
WIDTH, BLOCKS = 384, 6
BATCH = 128
PEAK_LEARNING_RATE = 3e-3


class Block(nn.Module):
    """A two-layer perceptron added to its input."""

    def __init__(self) -> None:
        super().__init__()
        self.change = nn.Sequential(
            nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH)
        )

    def forward(self, carry: Tensor) -> Tensor:
        """(batch, WIDTH) -> (batch, WIDTH)."""
        return carry + self.change(carry)


class ResidualMlp(nn.Module):
    """(batch, FEATURES), word counts -> logits (batch, LABELS)."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(FEATURES, WIDTH)
        self.blocks = nn.Sequential(*(Block() for _ in range(BLOCKS)))
        self.head = nn.Linear(WIDTH, LABELS)

    def forward(self, counts: Tensor) -> Tensor:
        return self.head(self.blocks(self.enter(counts)))


def train(network: nn.Module, x: Tensor, y: Tensor, epochs: int) -> None:
    """Train in place with AdamW and a one-cycle learning rate."""
    steps = epochs * -(-len(x) // BATCH)
    optimizer = torch.optim.AdamW(network.parameters(), PEAK_LEARNING_RATE, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_LEARNING_RATE, steps)
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(BATCH):
            loss = F.binary_cross_entropy_with_logits(network(x[rows]), y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("build/examples/onnx_file"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rows", type=int, default=12_000, help="to train on, and as many to keep")
    parser.add_argument("--epochs", type=int, default=3)
    arguments = parser.parse_args()
    x, y = make_multilabel_classification(
        2 * arguments.rows,
        FEATURES,
        n_classes=LABELS,
        n_labels=3,
        length=WORDS,
        random_state=arguments.seed,
    )
    x = x.astype(np.float32)
    torch.set_num_threads(1)  # its products are too small for several cores to share
    torch.manual_seed(arguments.seed)
    network = ResidualMlp()
    own = slice(arguments.rows)
    train(network, torch.from_numpy(x[own]), torch.from_numpy(y[own]).float(), arguments.epochs)
    arguments.out.mkdir(parents=True, exist_ok=True)
    torch.onnx.export(
        network.eval(),
        (torch.zeros(2, FEATURES),),
        arguments.out / "model.onnx",
        input_names=["counts"],
        output_names=["logits"],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        dynamo=True,
        external_data=False,
        verbose=False,
    )
    labels = np.array([f"topic {letter}" for letter in "ABCDEFGHIJ"])
    np.savez_compressed(
        arguments.out / "data.npz", x=x[arguments.rows :], y=y[arguments.rows :], labels=labels
    )


if __name__ == "__main__":
    main()
