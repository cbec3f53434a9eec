"""2x2 tiles of CIFAR-10's test images, as PNG files with a label table.

    python examples/cifar_tiles/make_tiles.py cifar10-test-jpg.zip FOLDER [--tiles 10000]

Real pixels, constructed label sets: which of the ten classes occur among the four images. The
10,000 source images are parted by split, so that no image of one split occurs in another.
"""

from __future__ import annotations

import argparse
import csv
import zipfile
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

SIDE = 32
SHARES = {"fit": 0.5, "tune": 0.15, "certify": 0.25, "test": 0.1}


def read_images(archive: Path) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 (n, 32, 32, 3) and the name of each one's class (n,)."""
    images, classes = [], []
    with zipfile.ZipFile(archive) as files:
        for name in sorted(n for n in files.namelist() if n.endswith(".jpg")):
            with Image.open(BytesIO(files.read(name))) as image:
                images.append(np.asarray(image.convert("RGB")))
            classes.append(Path(name).parent.name)
    return np.stack(images), np.array(classes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("archive", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tiles", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    images, classes = read_images(arguments.archive)
    rng = np.random.default_rng(arguments.seed)
    order = rng.permutation(len(images))
    bounds = (np.cumsum(list(SHARES.values()))[:-1] * len(order)).astype(int)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    with (arguments.folder / "labels.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["image", "labels", "split"])
        for split, pool in zip(SHARES, np.split(order, bounds), strict=True):
            for number in range(round(SHARES[split] * arguments.tiles)):
                chosen = rng.choice(pool, 4)
                tile = images[chosen].reshape(2, 2, SIDE, SIDE, 3).transpose(0, 2, 1, 3, 4)
                name = f"{split}{number:05}.png"
                Image.fromarray(tile.reshape(2 * SIDE, 2 * SIDE, 3)).save(arguments.folder / name)
                table.writerow([name, ",".join(sorted(set(classes[chosen]))), split])


if __name__ == "__main__":
    main()
