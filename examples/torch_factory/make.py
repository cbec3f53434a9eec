"""Weights for the network beside this file, and images of two digits for it.

    python examples/torch_factory/make.py [--out FOLDER] [--seed 0] [--rows 6000] [--epochs 5]

Writes weights.safetensors, images/ (PNG files, and labels.csv with the columns image and labels)
and preprocessing.json. An image is two of scikit-learn's handwritten digits side by side; its
labels are the digits that occur. Half of the 1,797 digits are for the network to learn from, the
images are composed of the other half.
"""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path

import numpy as np
import torch
from network import LABELS, factory
from PIL import Image
from safetensors.torch import save_file
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

HEIGHT, WIDTH = 16, 32
PREPROCESSING = {"kind": "image", "mode": "L", "height": HEIGHT, "width": WIDTH}
BATCH = 64
PEAK_LEARNING_RATE = 8e-3


def enlarged_digits() -> tuple[np.ndarray, np.ndarray]:
    """Digits uint8 (n, HEIGHT, HEIGHT), 0 (paper) to 255 (ink), and which ones they are (n,)."""
    digits = load_digits()
    images = [
        Image.fromarray(np.uint8(image * 255 / 16)).resize((HEIGHT, HEIGHT))
        for image in digits.images
    ]
    return np.stack([np.asarray(image) for image in images]), digits.target


def compose(
    images: np.ndarray, digits: np.ndarray, rows: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Pairs uint8 (rows, HEIGHT, WIDTH) and label sets bool (rows, LABELS)."""
    chosen = rng.integers(len(images), size=(rows, 2))
    pairs = np.concatenate([images[chosen[:, 0]], images[chosen[:, 1]]], axis=2)
    labels = np.zeros((rows, LABELS), bool)
    np.put_along_axis(labels, digits[chosen], True, axis=1)
    return pairs, labels


def train(network: nn.Module, pairs: Tensor, labels: Tensor, epochs: int) -> None:
    """Train in place; pairs (n, 1, HEIGHT, WIDTH) from 0 to 1, labels (n, LABELS)."""
    steps = epochs * -(-len(pairs) // BATCH)
    optimizer = torch.optim.AdamW(network.parameters(), PEAK_LEARNING_RATE, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_LEARNING_RATE, steps)
    network.train()
    for _ in range(epochs):
        for rows in torch.randperm(len(pairs)).split(BATCH):
            loss = F.binary_cross_entropy_with_logits(network(pairs[rows]), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()


def write_images(folder: Path, pairs: np.ndarray, labels: np.ndarray) -> None:
    """PNG files and the table that names their labels."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "labels.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["image", "labels"])
        for row, (pair, present) in enumerate(zip(pairs, labels, strict=True)):
            name = f"pair{row:05}.png"
            Image.fromarray(pair).save(folder / name)
            table.writerow([name, ",".join(map(str, np.flatnonzero(present)))])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("build/examples/torch_factory"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rows", type=int, default=6000, help="to train on, and as many to keep")
    parser.add_argument("--epochs", type=int, default=5)
    arguments = parser.parse_args()
    rng = np.random.default_rng(arguments.seed)
    images, digits = enlarged_digits()
    own, other = np.array_split(rng.permutation(len(images)), 2)
    pairs, labels = compose(images[own], digits[own], arguments.rows, rng)
    torch.set_num_threads(1)  # its products are too small for several cores to share
    torch.manual_seed(arguments.seed)
    network = factory()
    values = torch.from_numpy(pairs)[:, None] / 255
    train(network, values, torch.from_numpy(labels).float(), arguments.epochs)
    write_images(
        arguments.out / "images", *compose(images[other], digits[other], arguments.rows, rng)
    )
    save_file(network.state_dict(), arguments.out / "weights.safetensors")
    (arguments.out / "preprocessing.json").write_text(json.dumps(PREPROCESSING) + "\n")


if __name__ == "__main__":
    main()
