"""The embedded data set `digits`: multi-label images composed from real handwritten digits.

Three of scikit-learn's 8x8 digits are enlarged and placed, slightly overlapping, on a 32x32 canvas;
the label set is which digits occur. The splits are composed from disjoint source digits, so no
stroke seen in one split occurs in another.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np

from calibration.dataset import SPLITS, Dataset, from_arrays

LABELS = tuple(str(digit) for digit in range(10))
CANVAS = 32
DIGITS_PER_IMAGE = 3
SIZES = (12, 14, 16)
MAX_OVERLAP = 0.2  # of the smaller digit's box, for every pair
ROWS = {"fit": 12_000, "tune": 3_000, "certify": 3_000, "test": 3_000}
SOURCE_SHARES = {"fit": 0.52, "tune": 0.16, "certify": 0.16, "test": 0.16}


def compose_digits(seed: int = 0, rows: dict[str, int] | None = None) -> Dataset:
    """Compose the four splits, one after another.

    Parameters
    ----------
    seed : draws the source digits of each split, their sizes and their places.
    rows : rows per split, by default 12,000 / 3,000 / 3,000 / 3,000.

    Returns
    -------
    Rows float32 (1, 32, 32) in [0, 1] with their split.
    """
    from sklearn.datasets import load_digits

    rng = np.random.default_rng(seed)
    source = load_digits()
    order = rng.permutation(len(source.target))
    bounds = np.cumsum([round(share * len(order)) for share in SOURCE_SHARES.values()])[:-1]
    scaled = {size: _enlarge(source.images / 16.0, size) for size in SIZES}
    counts = [(rows or ROWS)[split] for split in SPLITS]
    parts = [
        _compose(pool, source.target, scaled, count, rng)
        for pool, count in zip(np.split(order, bounds), counts, strict=True)
    ]
    images, labels = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    split = np.repeat(np.arange(len(SPLITS), dtype=np.int8), counts)
    return from_arrays(images, labels, LABELS, split)


def _enlarge(images: np.ndarray, size: int) -> np.ndarray:
    """(n, 8, 8) -> (n, size, size), bilinear."""
    from PIL import Image

    resized = [
        Image.fromarray(image.astype(np.float32)).resize((size, size), Image.Resampling.BILINEAR)
        for image in images
    ]
    return np.stack([np.asarray(image) for image in resized])


def _compose(
    pool: np.ndarray,
    targets: np.ndarray,
    scaled: dict[int, np.ndarray],
    rows: int,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Images (n, 1, 32, 32) and label sets (n, 10) of one split."""
    chosen = rng.choice(pool, (rows, DIGITS_PER_IMAGE))
    sizes = rng.choice(SIZES, (rows, DIGITS_PER_IMAGE))
    corners = _place(sizes, rng)
    images = np.zeros((rows, 1, CANVAS, CANVAS), np.float32)
    for row, position in np.ndindex(rows, DIGITS_PER_IMAGE):
        size = int(sizes[row, position])
        top, left = corners[row, position]
        window = images[row, 0, top : top + size, left : left + size]
        np.maximum(window, scaled[size][chosen[row, position]], out=window)
    labels = np.zeros((rows, len(LABELS)), bool)
    np.put_along_axis(labels, targets[chosen], True, axis=1)
    return images, labels


def _place(sizes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Top-left corners (n, 3, 2) for `sizes` (n, 3), redrawn where boxes overlap too much."""
    corners = np.zeros((*sizes.shape, 2), np.int64)
    redraw = np.arange(len(sizes))
    while len(redraw):
        free = CANVAS - sizes[redraw, :, None] + 1
        corners[redraw] = rng.integers(0, free, (*free.shape[:2], 2))
        redraw = redraw[_worst_overlap(corners[redraw], sizes[redraw]) > MAX_OVERLAP]
    return corners


def _worst_overlap(corners: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """(n,): over the pairs of a row, the largest shared area over the smaller box's area."""
    shares = []
    for i, j in combinations(range(sizes.shape[1]), 2):
        ends = np.minimum(corners[:, i] + sizes[:, i, None], corners[:, j] + sizes[:, j, None])
        sides = ends - np.maximum(corners[:, i], corners[:, j])  # (n, 2)
        smaller = np.minimum(sizes[:, i], sizes[:, j])
        shares.append(np.prod(np.maximum(sides, 0), axis=1) / smaller**2)
    return np.asarray(np.max(shares, axis=0))
