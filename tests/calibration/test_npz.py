"""NumPy archives: streamed, never unpickled."""

from __future__ import annotations

import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from calibration.readers import DataOptions, open_dataset
from models.errors import CalibrationError
from tests.calibration.test_readers import sets, write

X = np.arange(12, dtype=np.float32).reshape(3, 4)
Y = np.array([[1, 0], [0, 0], [1, 1]])

SAVES = pytest.mark.parametrize("save", [np.savez, np.savez_compressed])


@SAVES
@settings(max_examples=30, deadline=None)
@given(
    x=arrays.arrays(
        st.sampled_from([np.float32, np.float64, np.uint8, np.int64, np.dtype(">f4")]),
        arrays.array_shapes(min_dims=2, max_dims=4, max_side=4),
        elements={"allow_nan": False},
    ),
    size=st.integers(1, 5),
)
def test_rows_come_back_in_chunks_of_any_size(
    tmp_path_factory: pytest.TempPathFactory,
    save: Callable[..., None],
    x: np.ndarray,
    size: int,
) -> None:
    path = tmp_path_factory.mktemp("npz") / "a.npz"
    save(path, x=x, y=np.ones((len(x), 1), bool))
    chunks = [np.asarray(chunk) for chunk in open_dataset(DataOptions(path)).read(size)]
    assert {len(chunk) for chunk in chunks[:-1]} <= {size}
    assert {chunk.dtype for chunk in chunks} == {x.dtype.newbyteorder("=")}
    np.testing.assert_array_equal(np.concatenate(chunks), x)


@pytest.mark.parametrize("dtype", [bool, np.int64, np.uint8, np.float32])
def test_labels_of_any_numeric_type(tmp_path: Path, dtype: type) -> None:
    np.savez(tmp_path / "a.npz", x=X, y=Y.astype(dtype))
    data = open_dataset(DataOptions(tmp_path / "a.npz"))
    assert data.kind == "numbers"
    assert sets(data) == [{"0"}, set(), {"0", "1"}]
    assert data.labels.dtype == bool
    assert data.place(2) == "a.npz, row 2"


@pytest.mark.parametrize("array", ["names", "labels"])
def test_label_names_in_the_archive(tmp_path: Path, array: str) -> None:
    np.savez(tmp_path / "a.npz", x=X, y=Y, **{array: np.array(["up", "down"])})
    assert open_dataset(DataOptions(tmp_path / "a.npz")).names == ("up", "down")


def test_label_names_in_a_file(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=X, y=Y)
    names = write(tmp_path / "labels.txt", "up", "down")
    options = DataOptions(tmp_path / "a.npz", label_names=names)
    assert open_dataset(options).names == ("up", "down")
    write(names, "up", "down", "left")
    with pytest.raises(CalibrationError, match=r"2 labels, but there are 3 .*labels\.txt"):
        open_dataset(options)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"x": X}, "no array 'y', it has 'x'"),
        ({"X": X, "y": Y}, "no array 'x', it has 'X', 'y'"),
        ({"x": X, "y": Y[:2]}, "3 rows but label sets for 2"),
        ({"x": X, "y": Y[:, 0]}, r"y of .* shape \(3,\): expected \(n, L\)"),
        ({"x": X[:, 0], "y": Y}, r"x of .* shape \(3,\)"),
        ({"x": X[:, :0], "y": Y}, r"x of .* shape \(3, 0\)"),
        ({"x": X[:0], "y": Y[:0]}, "has no rows"),
        ({"x": X, "y": Y[:, :0]}, "has no labels"),
        ({"x": X, "y": 2 * Y}, "row 0 has 2 for the label '0': expected 0 or 1"),
        ({"x": X, "y": Y - 0.5}, "row 0 has 0.5 for the label '0'"),
        ({"x": X, "y": np.where(Y == 1, np.nan, 0)}, "row 0 has nan for the label '0'"),
        ({"x": X.astype(str), "y": Y}, "x of .* type <U.*: expected numbers"),
        ({"x": X.astype(object), "y": Y}, "x of .* type object: expected numbers.*unpickled"),
        ({"x": X, "y": Y.astype(object)}, "y of .* type object"),
        ({"x": X, "y": Y, "names": Y}, "names of .* expected L label names"),
        ({"x": X, "y": Y, "names": np.array(["a", "b"], object)}, "names of .* type object"),
        ({"x": X, "y": Y, "names": ["a", "b", "c"]}, "2 labels, but there are 3 label names"),
        ({"x": X, "y": Y, "names": ["a", "a"]}, "repeat: 'a'"),
        ({"x": X, "y": Y, "names": ["a", "b"], "labels": ["a", "b"]}, "label names twice"),
        ({"x": np.asfortranarray(X), "y": Y}, "column by column.*np.ascontiguousarray"),
    ],
)
def test_arrays_that_cannot_be_used_are_named(
    tmp_path: Path, content: dict[str, np.ndarray], message: str
) -> None:
    np.savez(tmp_path / "a.npz", **content)
    with pytest.raises(CalibrationError, match=message):
        open_dataset(DataOptions(tmp_path / "a.npz"))


def test_a_wrong_label_far_down_is_named(tmp_path: Path) -> None:
    y = np.ones((10_000, 2), np.uint8)
    y[9_000, 1] = 3
    np.savez(tmp_path / "a.npz", x=y, y=y)
    with pytest.raises(CalibrationError, match=r"a\.npz, row 9000 has 3 for the label '1'"):
        open_dataset(DataOptions(tmp_path / "a.npz"))


def test_what_is_no_archive_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.npz", "not an archive")
    with pytest.raises(CalibrationError, match="not a whole NumPy archive"):
        open_dataset(DataOptions(path))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", b"not an array")
        archive.writestr("y.npy", b"")
    with pytest.raises(CalibrationError, match=r"x of .* is not a NumPy array"):
        open_dataset(DataOptions(path))


@SAVES
def test_a_damaged_archive_is_noticed(tmp_path: Path, save: Callable[..., None]) -> None:
    path = tmp_path / "a.npz"
    x = np.random.default_rng(0).random((1000, 50))
    save(path, y=np.ones((1000, 1), bool), x=x)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(CalibrationError, match="not a whole NumPy archive"):
        list(open_dataset(DataOptions(path)).read(100))


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_versions_of_the_array_format(tmp_path: Path, version: tuple[int, int]) -> None:
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in (("x", X), ("y", Y)):
            with archive.open(f"{name}.npy", "w") as member:
                np.lib.format.write_array(member, array, version)
    if version < (3, 0):
        assert sets(open_dataset(DataOptions(path))) == [{"0"}, set(), {"0", "1"}]
    else:
        with pytest.raises(CalibrationError, match=r"x of .* version \(3, 0\): expected 1\.0 or"):
            open_dataset(DataOptions(path))


def test_an_array_shorter_than_its_header_says_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, x=X, y=Y)
    with zipfile.ZipFile(path) as archive:
        x, y = archive.read("x.npy"), archive.read("y.npy")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", x[:-20])
        archive.writestr("y.npy", y)
    with pytest.raises(CalibrationError, match=r"x of .* ends within row 1: expected 3 rows"):
        list(open_dataset(DataOptions(path)).read(2))


@SAVES
def test_the_rows_are_never_in_memory_at_once(tmp_path: Path, save: Callable[..., None]) -> None:
    x = np.random.default_rng(0).integers(0, 9, (4000, 1000)).astype(np.float32)
    save(tmp_path / "a.npz", x=x, y=np.ones((len(x), 2), bool))
    tracemalloc.start()
    try:
        data = open_dataset(DataOptions(tmp_path / "a.npz"))
        assert sum(len(chunk) for chunk in data.read(100)) == len(x)
        assert tracemalloc.get_traced_memory()[1] < x.nbytes / 5
    finally:
        tracemalloc.stop()
