"""MULAN's ARFF files: what was written is read, and what cannot be read is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from calibration.dataset import Dataset
from calibration.readers import DataOptions, open_dataset
from models.errors import CalibrationError
from tests.calibration.test_readers import sets, write

HEADER = (
    "% made by hand",
    "@relation 'two and two'",
    "",
    "@attribute Width numeric",
    "@ATTRIBUTE up {0,1}",
    "@attribute 'it\\'s %high' REAL",
    "@attribute down {0, 1}",
    "@DATA",
)


def write_xml(path: Path, *names: str) -> Path:
    labels = (f'<label name="{name}"></label>' for name in names)
    space = 'xmlns="http://mulan.sourceforge.net/labels"'
    return write(path, '<?xml version="1.0"?>', f"<labels {space}>", *labels, "</labels>")


def write_arff(path: Path, *rows: str, header: tuple[str, ...] = HEADER) -> Path:
    write_xml(path.with_suffix(".xml"), "down", "up")
    return write(path, *header, *rows)


def matrix(data: Dataset, size: int = 2) -> np.ndarray:
    return np.concatenate([np.asarray(chunk) for chunk in data.read(size)])


def test_dense_rows(tmp_path: Path) -> None:
    path = write_arff(tmp_path / "a.arff", "1.5,0,-2e3,1", "% a comment", "", " '0' , 1 , 3 ,0")
    data = open_dataset(DataOptions(path))
    assert data.kind == "numbers"
    assert data.names == ("up", "down")
    assert sets(data) == [{"down"}, {"up"}]
    assert matrix(data).dtype == np.float32
    assert matrix(data).tolist() == [[1.5, -2000], [0, 3]]
    assert [data.place(row) for row in (0, 1)] == ["a.arff, line 9", "a.arff, line 12"]


def test_sparse_rows(tmp_path: Path) -> None:
    path = write_arff(tmp_path / "a.arff", "{2 7, 3 1}", "{ }", "{0 -1,1 1}")
    data = open_dataset(DataOptions(path))
    assert sets(data) == [{"down"}, set(), {"up"}]
    assert matrix(data).tolist() == [[0, 7], [0, 0], [-1, 0]]


def test_what_a_sparse_row_omits_is_the_first_value_of_a_nominal_attribute(tmp_path: Path) -> None:
    header = (*HEADER[:3], "@attribute Width {3,5}", "@attribute up {1,0}", *HEADER[5:])
    data = open_dataset(
        DataOptions(write_arff(tmp_path / "a.arff", "{2 7}", "{3 1}", header=header))
    )
    assert sets(data) == [{"up"}, {"up", "down"}]
    assert matrix(data).tolist() == [[3, 7], [3, 0]]


@settings(max_examples=50, deadline=None)
@given(
    values=arrays.arrays(
        np.float32,
        st.tuples(st.integers(1, 9), st.integers(1, 4)),
        elements=st.floats(width=32, allow_nan=False, allow_infinity=False),
    ),
    sparse=st.booleans(),
    size=st.integers(1, 10),
    draw=st.randoms(use_true_random=False),
)
def test_what_was_written_is_read(
    tmp_path_factory: pytest.TempPathFactory,
    values: np.ndarray,
    sparse: bool,
    size: int,
    draw: object,
) -> None:
    rng = np.random.default_rng(draw.getrandbits(32))  # type: ignore[attr-defined]
    labels = rng.random((len(values), 2)) < 0.5
    labels[0] = True
    table = np.column_stack([labels[:, :1], values, labels[:, 1:]])
    last = table.shape[1] - 1
    header = (
        "@attribute up numeric",
        *(f"@attribute f{column} numeric" for column in range(values.shape[1])),
        "@attribute down {0,1}",
        "@data",
    )
    rows = [
        "{" + ",".join(f"{i} {_number(v, i == last)}" for i, v in enumerate(row) if v != 0) + "}"
        if sparse
        else ",".join(_number(v, i == last) for i, v in enumerate(row))
        for row in table
    ]
    path = write_arff(tmp_path_factory.mktemp("arff") / "a.arff", *rows, header=header)
    data = open_dataset(DataOptions(path))
    np.testing.assert_array_equal(data.labels, labels)
    np.testing.assert_array_equal(matrix(data, size), values)


def _number(value: float, nominal: bool) -> str:
    return str(int(value)) if nominal else repr(float(value))


@pytest.mark.parametrize("split", ["train", "test"])
def test_the_list_of_labels_is_shared_by_the_files_of_splits(tmp_path: Path, split: str) -> None:
    path = write(tmp_path / f"a-{split}.arff", *HEADER, "1,0,2,1", "1,1,2,1")
    write_xml(tmp_path / "a.xml", "up", "down")
    assert open_dataset(DataOptions(path)).names == ("up", "down")


def test_labels_may_be_listed_in_a_text_file(tmp_path: Path) -> None:
    path = write(tmp_path / "a.arff", *HEADER, "1,0,2,1")
    with pytest.raises(CalibrationError, match=r"no list of labels beside .*a\.xml.*--label-names"):
        open_dataset(DataOptions(path))
    names = write(tmp_path / "labels.txt", "down")
    data = open_dataset(DataOptions(path, label_names=names))
    assert data.names == ("down",)
    assert matrix(data).tolist() == [[1, 0, 2]]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("1,0,?,1", r"missing value \(\?\)"),
        ("{2 ?}", r"missing value \(\?\)"),
        ("1,0,wide,1", "wide"),
        ("1,0,,1", "not a row of 4 numbers"),
        ("1,0,2", "not a row of 4 numbers: 3 values found"),
        ("1,0,2,1,5", "not a row of 4 numbers: 5 values found"),
        ("{2 7", "begins with a brace"),
        ("{2 7 3, 1}", "begins with a brace"),
        ("{4 1}", "no attribute number 4"),
        ("{-1 1}", "no attribute number -1"),
        ("{1.5 1}", "1.5"),
        ("{2 wide}", "wide"),
        ("1,0,2,2", r"2\.0 for the label 'down': expected 0 or 1"),
        ("{1 -1}", r"-1\.0 for the label 'up'"),
    ],
)
def test_a_row_that_cannot_be_used_is_named_with_its_line(
    tmp_path: Path, row: str, message: str
) -> None:
    path = write_arff(tmp_path / "a.arff", "1,0,2,1", "{1 1}", "", row, "1,0,2,1")
    with pytest.raises(CalibrationError, match=rf"a\.arff, line 12 .*{message}"):
        open_dataset(DataOptions(path))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("@attribute colour {red,blue}", r"'colour' .* type \{red,blue\}: expected numeric"),
        ("@attribute when date", "'when' .* type date"),
        ("@attribute bare", "'bare' .* type nothing"),
        ("@attribute up numeric", "repeats the attributes 'up'"),
        ("attribute x numeric", "header line 'attribute x numeric'"),
    ],
)
def test_a_header_that_cannot_be_used_is_named(tmp_path: Path, line: str, message: str) -> None:
    path = write_arff(tmp_path / "a.arff", "1,0,2,1", header=(line, *HEADER))
    with pytest.raises(CalibrationError, match=message):
        open_dataset(DataOptions(path))


@pytest.mark.parametrize("header", [(), HEADER[:-1]])
def test_a_file_without_data_is_refused(tmp_path: Path, header: tuple[str, ...]) -> None:
    path = write_arff(tmp_path / "a.arff", header=header)
    with pytest.raises(CalibrationError, match="no @data line"):
        open_dataset(DataOptions(path))
    write(path, "@data")
    with pytest.raises(CalibrationError, match="no attributes"):
        open_dataset(DataOptions(path))
    write(path, *HEADER)
    with pytest.raises(CalibrationError, match="no rows"):
        open_dataset(DataOptions(path))


def test_labels_that_are_no_attributes_are_named(tmp_path: Path) -> None:
    path = write_arff(tmp_path / "a.arff", "1,0,2,1")
    write_xml(tmp_path / "a.xml", "up", "left")
    with pytest.raises(CalibrationError, match=r"a\.xml lists the labels 'left'"):
        open_dataset(DataOptions(path))
    write_xml(tmp_path / "a.xml", "up", "up")
    with pytest.raises(CalibrationError, match=r"a\.xml has label names that repeat: 'up'"):
        open_dataset(DataOptions(path))
    write_xml(tmp_path / "a.xml", "up", "down", "Width", "it's %high")
    with pytest.raises(CalibrationError, match="lists all attributes"):
        open_dataset(DataOptions(path))


@pytest.mark.parametrize(
    ("content", "message"), [("up, down", "is not XML"), ("<labels/>", "has no labels")]
)
def test_a_list_of_labels_that_is_none_is_refused(
    tmp_path: Path, content: str, message: str
) -> None:
    path = write_arff(tmp_path / "a.arff", "1,0,2,1")
    write(tmp_path / "a.xml", content)
    with pytest.raises(CalibrationError, match=rf"a\.xml {message}"):
        open_dataset(DataOptions(path))
