from __future__ import annotations

import base64
import json
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from calibration.bundle_examples import LARGEST, write_examples
from calibration.dataset import SPLITS, Dataset, from_arrays, split_rows
from calibration.features import PassOptions
from calibration.options import CalibrationData, CalibrationOptions
from models.bundle import Bundle
from models.encoders import open_encoder
from models.encoding import Group, blank_rows
from models.runtime import StageRuntime
from tests.small_bundles import small_bundle

TEST = SPLITS.index("test")


def data_of(dataset: Dataset, bundle: Bundle) -> CalibrationData:
    manifest = bundle.manifest
    encoder = open_encoder(manifest.preprocessing, manifest.inputs, bundle.files)
    sample = Group(np.arange(1), blank_rows(manifest.inputs))
    split = dataset.split
    return CalibrationData(dataset, split, encoder, manifest.preprocessing, {}, sample)


def examples_of(
    dataset: Dataset, bundle: Bundle, count: int = 6, seed: int = 0
) -> list[dict[str, Any]]:
    content = write_examples(count, data_of(dataset, bundle), bundle.manifest, bundle.model, seed)
    return json.loads(content)


def of_kind(kind: str, rows: list[Any], names: tuple[str, ...], split: int = TEST) -> Dataset:
    """Rows in memory, all of one split; row k has label k modulo the number of labels."""
    labels = np.eye(len(names), dtype=bool)[np.arange(len(rows)) % len(names)]
    plain = from_arrays(np.zeros(len(rows)), labels, names, np.full(len(rows), split, np.int8))

    def read(size: int) -> Any:
        for start in range(0, len(rows), size):
            yield rows[start : start + size]

    return replace(plain, kind=kind, read=read)  # type: ignore[arg-type]


def test_examples_are_labelled_rows_of_the_test_split(digits: Dataset, bundle: Bundle) -> None:
    rows = split_rows(digits, "test")
    labels = digits.labels[digits.split == TEST]
    for example in examples_of(digits, bundle, count=12):
        found = np.flatnonzero((rows == np.array(example["row"], np.float32)).all(axis=(1, 2, 3)))
        assert len(found) == 1
        truth = [digits.names[k] for k in np.flatnonzero(labels[found[0]])]
        assert example["labels"] == truth


@pytest.mark.parametrize("count", [1, 3, 4, 9])
def test_every_exit_is_seen_before_any_is_seen_twice(
    digits: Dataset, bundle: Bundle, runtime: StageRuntime, count: int
) -> None:
    examples = examples_of(digits, bundle, count)
    rows = np.array([example["row"] for example in examples], np.float32)
    exits = bundle.manifest.policy.route([a.score for a in runtime.all_exits((rows,))])
    assert len(exits) == count
    times = np.bincount(exits, minlength=5)[1:]
    assert times.max() - times.min() <= 1


def test_the_seed_draws_them(digits: Dataset, bundle: Bundle) -> None:
    first = examples_of(digits, bundle, seed=1)
    assert examples_of(digits, bundle, seed=1) == first
    assert examples_of(digits, bundle, seed=2) != first


def test_the_default_bundle_carries_some_and_others_none(bundle: Bundle) -> None:
    assert len(json.loads(bundle.files["examples.json"])) == 6
    assert "examples.json" in bundle.manifest.files
    assert CalibrationOptions("mine", PassOptions(Path())).examples == 0


def test_texts_stay_as_they_are(tmp_path: Path) -> None:
    bundle = small_bundle(tmp_path / "texts", "text")
    texts = [f"w{k} w{k + 1} <b>ü</b>" for k in range(12)]
    examples = examples_of(of_kind("text", texts, bundle.manifest.labels), bundle, count=20)
    assert {example["row"] for example in examples} == set(texts)
    for example in examples:
        k = texts.index(example["row"]) % len(bundle.manifest.labels)
        assert example["labels"] == [bundle.manifest.labels[k]]


def test_images_are_base64_and_broken_ones_are_left_out(tmp_path: Path) -> None:
    bundle = small_bundle(tmp_path / "images", "image")
    files = []
    for grey in (0, 80, 160, 240):
        file = BytesIO()
        Image.new("L", (8, 8), grey).save(file, "PNG")
        files.append(file.getvalue())
    dataset = of_kind("image", [*files, b"no image"], bundle.manifest.labels)
    rows = [base64.b64decode(example["row"]) for example in examples_of(dataset, bundle)]
    assert sorted(rows) == sorted(files)


def test_a_row_too_large_for_a_page_is_left_out(tmp_path: Path) -> None:
    bundle = small_bundle(tmp_path / "texts", "text")
    texts = ["w1 " * LARGEST, "w1"]
    examples = examples_of(of_kind("text", texts, bundle.manifest.labels), bundle)
    assert [example["row"] for example in examples] == ["w1"]


def test_other_splits_give_none(tmp_path: Path) -> None:
    """Above all the certify split, which is touched once."""
    bundle = small_bundle(tmp_path / "texts", "text")
    certify = SPLITS.index("certify")
    dataset = of_kind("text", ["w1", "w2"], bundle.manifest.labels, certify)
    assert examples_of(dataset, bundle) == []
