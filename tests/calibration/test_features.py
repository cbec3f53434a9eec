from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from rich.progress import Progress

from calibration import features as features_module
from calibration.dataset import Dataset, from_arrays
from calibration.feature_columns import Column
from calibration.features import Features, PassOptions, run_pass
from calibration.splits import hash_rows
from models.encoders import open_encoder
from models.encoding import RawRows
from models.errors import CalibrationError
from models.preprocessing import NumberPreprocessing, TensorSpec
from models.runtime import open_session
from tests.tiny_models import labelled_rows, residual_mlp

ROWS = 500
COLUMNS = [Column("carry0", "float32", 8), Column("logits", "float32", 3)]


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    return residual_mlp(2)


@pytest.fixture
def dataset(model: onnx.ModelProto) -> Dataset:
    x, labels = labelled_rows(model, ROWS)
    return from_arrays(x, labels, ("a", "b", "c"))


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features_module, "CHUNK_ROWS", 64)
    monkeypatch.setattr(features_module, "SAVE_SECONDS", 0)


def collect(
    model: onnx.ModelProto,
    dataset: Dataset,
    cache: Path,
    encoding: str = "plain",
    skip_bad: bool = False,
) -> Features:
    inputs = [TensorSpec(name="x", row_shape=(8,))]
    encoder = open_encoder(NumberPreprocessing(), inputs, {})
    options = PassOptions(cache, batch=16, lanes=2, skip_bad=skip_bad)
    return run_pass(model, COLUMNS, encoder, encoding, dataset, options, Progress(disable=True))


def rows_of(dataset: Dataset) -> np.ndarray:
    return np.concatenate(list(dataset.read(100)))


def test_columns_hold_every_row_in_its_place(
    model: onnx.ModelProto, dataset: Dataset, tmp_path: Path
) -> None:
    features = collect(model, dataset, tmp_path)
    session = open_session(model.SerializeToString())
    expected = session.run(None, {"x": rows_of(dataset)})[0]
    np.testing.assert_allclose(features.columns[1], expected, atol=1e-5)
    np.testing.assert_array_equal(features.hashes, hash_rows(rows_of(dataset)))
    assert features.good.all()


def forbid_reading(dataset: Dataset) -> Dataset:
    def read(size: int) -> Iterator[RawRows]:
        raise AssertionError("the cache should have been enough")

    return replace(dataset, read=read)


def test_a_finished_pass_is_not_run_again(
    model: onnx.ModelProto, dataset: Dataset, tmp_path: Path
) -> None:
    first = collect(model, dataset, tmp_path)
    again = collect(model, forbid_reading(dataset), tmp_path)
    np.testing.assert_array_equal(again.columns[0], first.columns[0])
    assert len(list(tmp_path.iterdir())) == 1


def test_another_model_data_or_encoding_has_a_cache_of_its_own(
    model: onnx.ModelProto, dataset: Dataset, tmp_path: Path
) -> None:
    collect(model, dataset, tmp_path)
    collect(model, dataset, tmp_path, encoding="other")
    collect(model, replace(dataset, digest="other"), tmp_path)
    collect(residual_mlp(2, seed=1), dataset, tmp_path)
    assert len(list(tmp_path.iterdir())) == 4


class Interrupted(Exception):
    pass


def test_an_interrupted_pass_goes_on_where_it_was(
    model: onnx.ModelProto, dataset: Dataset, tmp_path: Path
) -> None:
    def broken(size: int) -> Iterator[RawRows]:
        for number, chunk in enumerate(dataset.read(size)):
            if number == 4:
                raise Interrupted
            yield chunk

    with pytest.raises(Interrupted):
        collect(model, replace(dataset, read=broken), tmp_path)

    encoded = []

    def watched(size: int) -> Iterator[RawRows]:
        for chunk in dataset.read(size):
            encoded.append(len(chunk))
            yield chunk

    [folder] = tmp_path.iterdir()
    before = np.array(np.load(folder / "column1.npy")[:64])
    features = collect(model, replace(dataset, read=watched), tmp_path)
    np.testing.assert_array_equal(features.columns[0][:64], before)
    fresh = collect(model, dataset, tmp_path / "fresh")
    for one, other in zip(features.columns, fresh.columns, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
    np.testing.assert_array_equal(features.hashes, fresh.hashes)


@pytest.fixture
def with_bad_rows(dataset: Dataset) -> Dataset:
    x = rows_of(dataset).copy()
    x[[3, 70, 71, 200, 300, 400], 2] = np.nan
    return from_arrays(x, dataset.labels, dataset.names, place="line {}".format)


def test_bad_rows_are_counted_and_the_first_are_named(
    model: onnx.ModelProto, with_bad_rows: Dataset, tmp_path: Path
) -> None:
    with pytest.raises(CalibrationError) as raised:
        collect(model, with_bad_rows, tmp_path)
    message = str(raised.value)
    assert message.startswith(f"6 of {ROWS} rows cannot be read: line 3: found nan at position [2]")
    assert "line 71" in message
    assert "and 1 more" in message
    assert "--skip-bad" in message


def test_bad_rows_are_left_out_when_asked(
    model: onnx.ModelProto, with_bad_rows: Dataset, tmp_path: Path
) -> None:
    features = collect(model, with_bad_rows, tmp_path, skip_bad=True)
    assert np.flatnonzero(~features.good).tolist() == [3, 70, 71, 200, 300, 400]
    with pytest.raises(CalibrationError, match="6 of"):  # the cache remembers them
        collect(model, forbid_reading(with_bad_rows), tmp_path)


def test_a_cache_that_cannot_be_written_is_said_so(
    model: onnx.ModelProto, dataset: Dataset, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CalibrationError, match="--cache"):
        collect(model, dataset, tmp_path / "file")
