"""Tables: columns found or named, formats, and rows that cannot be used."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calibration.dataset import TO_BE_DRAWN
from calibration.readers import DataOptions, open_dataset
from models.errors import CalibrationError
from tests.calibration.test_readers import sets, texts, write

PLAIN = st.text(
    st.characters(exclude_characters="\t\n\ufeff", exclude_categories=["Cs"]), min_size=1
)


def write_jsonl(path: Path, *rows: object) -> Path:
    return write(path, *map(json.dumps, rows))


def write_parquet(path: Path, **columns: object) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def test_a_headerless_tsv_has_texts_then_labels(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.tsv", 'A lone " quote\t4,27\tid1', '"quoted" at once\t\tid2', "x\t4\tid3"
    )
    data = open_dataset(DataOptions(path))
    assert data.kind == "text"
    assert texts(data) == ['A lone " quote', '"quoted" at once', "x"]
    assert data.names == ("4", "27")
    assert sets(data) == [{"4", "27"}, set(), {"4"}]


@settings(max_examples=50, deadline=None)
@given(rows=st.lists(PLAIN, min_size=1, max_size=12), size=st.integers(1, 5))
def test_texts_of_a_tsv_come_back_in_chunks_of_any_size(
    tmp_path_factory: pytest.TempPathFactory, rows: list[str], size: int
) -> None:
    path = tmp_path_factory.mktemp("tsv") / "a.tsv"
    content = "".join(f"{row}\ta\n" for row in rows)
    path.write_bytes(content.encode())
    data = open_dataset(DataOptions(path, header=False))
    chunks = list(data.read(size))
    assert [text for chunk in chunks for text in chunk] == rows
    assert {len(chunk) for chunk in chunks[:-1]} <= {size}
    assert [data.place(row) for row in range(len(rows))] == [
        f"a.tsv, line {row + 1}" for row in range(len(rows))
    ]


@settings(max_examples=50, deadline=None)
@given(
    rows=st.lists(
        st.tuples(
            st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r")),
            st.frozensets(st.sampled_from(["a", "b c", "d"])),
        ),
        min_size=1,
        max_size=12,
    ),
    size=st.integers(1, 5),
)
def test_rows_of_a_csv_come_back_however_they_are_quoted(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, frozenset[str]]], size: int
) -> None:
    path = tmp_path_factory.mktemp("csv") / "a.csv"
    rows = [*rows, ("last", frozenset(["a"]))]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["labels", "text"])
        writer.writerows([",".join(labels), text] for text, labels in rows)
    data = open_dataset(DataOptions(path))
    assert texts(data, size) == [text for text, _ in rows]
    assert sets(data) == [set(labels) for _, labels in rows]


def test_lines_are_counted_as_an_editor_does(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "text,labels", '"two', 'lines",a', "", "next,b")
    data = open_dataset(DataOptions(path))
    assert [data.place(row) for row in range(2)] == ["a.csv, line 2", "a.csv, line 5"]


@pytest.mark.parametrize("column", ["text", "comment", "sentence", "content", "Title"])
def test_text_columns_are_known_by_name(tmp_path: Path, column: str) -> None:
    path = write(tmp_path / "a.csv", f"stars,{column},tags", "5,one,a")
    data = open_dataset(DataOptions(path))
    assert (data.kind, texts(data)) == ("text", ["one"])


@pytest.mark.parametrize(
    ("header", "options", "message"),
    [
        ("text,comment,labels", {}, "several columns for texts or images: 'text', 'comment'"),
        ("text,file,labels", {}, "several columns for texts or images: 'text', 'file'"),
        ("text,labels,tags", {}, "several columns for labels: 'labels', 'tags'"),
        ("text,mood,rest", {}, "no column that is known to hold labels.*'text', 'mood', 'rest'"),
        ("review,labels,rest", {}, "no numbers in 'review', 'rest'"),
        ("text,labels,rest", {"text_column": "txt"}, "no column 'txt'; its columns are 'text'"),
        ("text,labels,rest", {"label_columns": ("x", "y")}, "no column 'x', 'y'"),
        ("text,labels,rest", {"split_column": "labels"}, "several uses for the column 'labels'"),
        ("text,labels,rest", {"text_column": "labels"}, "several uses for the column 'labels'"),
        ("text,labels,rest", {"label_columns": ("rest", "rest")}, "several uses.*'rest'"),
        ("text,labels,text", {}, "columns of the same name: 'text'"),
        ("one,two,three", {"label_columns": ("7",)}, "no column '7'; without a header .*--header"),
    ],
)
def test_ambiguity_lists_the_columns(
    tmp_path: Path, header: str, options: dict[str, object], message: str
) -> None:
    path = write(tmp_path / "a.csv", header, "x,y,z")
    with pytest.raises(CalibrationError, match=message):
        open_dataset(DataOptions(path, **options))  # type: ignore[arg-type]


def test_named_columns_settle_an_ambiguity(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "title,text,labels,tags", "one,two,a,b")
    options = DataOptions(path, text_column="title", label_columns=("tags",))
    data = open_dataset(options)
    assert (texts(data), sets(data)) == (["one"], [{"b"}])


def test_one_column_only_has_no_room_for_labels(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match="no column that is known to hold labels"):
        open_dataset(DataOptions(write(tmp_path / "a.tsv", "just a text")))


@pytest.mark.parametrize(
    ("header", "expected"), [(None, ["one"]), (True, ["one"]), (False, ["text", "one"])]
)
def test_a_header_is_detected_unless_it_is_said(
    tmp_path: Path, header: bool | None, expected: list[str]
) -> None:
    path = write(tmp_path / "a.tsv", "text\tmood\tlabels", "one\tgood\ta")
    assert texts(open_dataset(DataOptions(path, header=header))) == expected


def test_a_named_column_means_a_header_and_a_numbered_one_does_not(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tsv", "id\treview\tmood", "1\tone\tgood", "2\ttwo\tgood")
    named = DataOptions(path, text_column="review", label_columns=("mood",))
    assert texts(open_dataset(named)) == ["one", "two"]
    numbered = DataOptions(path, text_column="1", label_columns=("2",))
    assert texts(open_dataset(numbered)) == ["review", "one", "two"]


def test_labels_of_one_cell_are_split_at_the_separator(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tsv", "one\ta, x | b |", "two\tb|b")
    assert sets(open_dataset(DataOptions(path, label_separator="|"))) == [{"a, x", "b"}, {"b"}]
    with pytest.raises(CalibrationError, match=r"line 1 .*'\|' may separate.*--label-separator"):
        open_dataset(DataOptions(path))
    assert open_dataset(DataOptions(path, label_separator=",")).names == ("a", "b|b", "x | b |")


def test_one_column_per_label_holds_zeros_and_ones(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "text,up,down", "one,0,1", "two,1.0,True", "three,false,0")
    data = open_dataset(DataOptions(path, label_columns=("up", "down")))
    assert data.names == ("up", "down")
    assert sets(data) == [{"down"}, {"up", "down"}, set()]
    write(path, "text,up,down", "one,0,1", "two,1,-1")
    with pytest.raises(
        CalibrationError, match=r"a\.csv, line 3 has '-1' .*'down': expected 0 or 1"
    ):
        open_dataset(DataOptions(path, label_columns=("up", "down")))


def test_label_columns_can_be_renamed(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tsv", "one\t0\t1", "two\t1\t0")
    names = write(tmp_path / "labels.txt", "up", "down")
    options = DataOptions(path, label_columns=("1", "2"), label_names=names)
    assert sets(open_dataset(options)) == [{"down"}, {"up"}]
    write(names, "up")
    with pytest.raises(CalibrationError, match="1 label names for 2 label columns"):
        open_dataset(options)


def test_other_columns_are_features_where_there_is_no_text(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "id,width,labels,height", "a7,1.5,x,-2", "b8,1e3,y,nan")
    data = open_dataset(DataOptions(path))
    (rows,) = data.read(10)
    assert data.kind == "numbers"
    assert isinstance(rows, np.ndarray)
    assert rows.dtype == np.float32
    np.testing.assert_array_equal(rows, np.array([[1.5, -2], [1000, np.nan]], np.float32))


def test_headerless_numbers_are_features_where_label_columns_are_numbered(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "0,1,0.5,7", "1,0,0.25,8")
    data = open_dataset(DataOptions(path, label_columns=("0", "1")))
    assert np.concatenate(list(data.read(1))).tolist() == [[0.5, 7], [0.25, 8]]


def test_ignored_columns_are_no_features(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "name,width,labels", "anna,1.5,x")
    with pytest.raises(CalibrationError, match=r"no numbers in 'name'.*--ignore"):
        open_dataset(DataOptions(path))
    data = open_dataset(DataOptions(path, ignored_columns=("name",)))
    assert np.concatenate(list(data.read(1))).tolist() == [[1.5]]


@pytest.mark.parametrize("cell", ["wide", "", "?"])
def test_a_feature_that_is_no_number_is_named(tmp_path: Path, cell: str) -> None:
    path = write(tmp_path / "a.csv", "width,height,labels", "1,2,x", f"3,{cell},x")
    with pytest.raises(CalibrationError, match=r"a\.csv, line 3 has .* in the column 'height'"):
        open_dataset(DataOptions(path))


@pytest.mark.parametrize("ending", ["csv", "tsv"])
def test_a_row_of_another_length_is_named(tmp_path: Path, ending: str) -> None:
    line = "text,labels".replace(",", "\t" if ending == "tsv" else ",")
    path = write(tmp_path / f"a.{ending}", line, line, f"{line}{line}")
    with pytest.raises(CalibrationError, match=r"line 3 has 3 fields: expected 2"):
        open_dataset(DataOptions(path))


@pytest.mark.parametrize("text", ['"open', '"a" b', "x" * 200_000])
def test_a_broken_csv_is_named_with_its_line(tmp_path: Path, text: str) -> None:
    path = write(tmp_path / "a.csv", "text,labels", "fine,a", f"{text},a")
    with pytest.raises(CalibrationError, match=r"a\.csv is not CSV from line 3 on"):
        open_dataset(DataOptions(path))


def test_json_lines_hold_lists_of_labels(tmp_path: Path) -> None:
    path = write_jsonl(
        tmp_path / "a.jsonl",
        {"text": "one\ttab", "labels": ["b;c", 7]},
        {"labels": [], "text": "NA", "more": 1},
        {"labels": "x, 7", "text": ""},
        {"labels": 7, "text": "four"},
    )
    data = open_dataset(DataOptions(path))
    assert texts(data) == ["one\ttab", "NA", "", "four"]
    assert sets(data) == [{"b;c", "7"}, set(), {"x", "7"}, {"7"}]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"text": "x", "labels": null}', "null as its labels"),
        ('{"text": "x", "labels": [1.5]}', "the label 1.5"),
        ('{"text": "x", "labels": [true]}', "the label True"),
        ('{"text": "x", "labels": {"a": 1}}', "the label {'a': 1}"),
        ('{"text": "x"}', r"has no 'labels', only 'text'"),
        ('{"text": 3, "labels": []}', "3 as its text"),
        ('{"text": "x", "labels": []', "is not JSON"),
        ('["x"]', "holds a list: expected one object"),
    ],
)
def test_a_broken_json_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    path = write(tmp_path / "a.jsonl", '{"text": "x", "labels": ["a"]}', "", line)
    with pytest.raises(CalibrationError, match=rf"a\.jsonl, line 3.*{message}"):
        open_dataset(DataOptions(path))


def test_json_features_are_numbers_and_null_is_missing(tmp_path: Path) -> None:
    path = write_jsonl(
        tmp_path / "a.jsonl", {"w": None, "h": True, "tags": ["a"]}, {"h": 2, "w": 3, "tags": []}
    )
    (rows,) = open_dataset(DataOptions(path)).read(5)
    np.testing.assert_array_equal(rows, np.array([[np.nan, 1], [3, 2]], np.float32))
    write_jsonl(path, {"w": 1, "tags": ["a"]}, {"w": [1], "tags": ["a"]})
    with pytest.raises(CalibrationError, match=r"line 2 has \[1\] in the column 'w'"):
        open_dataset(DataOptions(path))


@pytest.mark.parametrize("size", [1, 7, 300, 1000])
def test_parquet_is_read_as_what_it_holds(tmp_path: Path, size: int) -> None:
    rows = [f"row {row}" for row in range(600)]
    labels = [[row % 3, 3] if row % 2 else [] for row in range(600)]
    path = write_parquet(tmp_path / "a.parquet", text=rows, label=labels, extra=[1.0] * 600)
    data = open_dataset(DataOptions(path))
    assert texts(data, size) == rows
    assert sets(data) == [{str(label) for label in row} for row in labels]
    assert data.place(599) == "a.parquet, row 599"


def test_parquet_columns_of_numbers(tmp_path: Path) -> None:
    path = write_parquet(
        tmp_path / "a.parquet", up=[True, False], x=[1, 2], down=[0, 1], y=[0.5, None]
    )
    data = open_dataset(DataOptions(path, label_columns=("down", "up")))
    assert sets(data) == [{"up"}, {"down"}]
    (rows,) = data.read(5)
    np.testing.assert_array_equal(rows, np.array([[1, 0.5], [2, np.nan]], np.float32))


def test_a_broken_parquet_file_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", "text,labels")
    with pytest.raises(CalibrationError, match=r"a\.parquet is not a Parquet file"):
        open_dataset(DataOptions(path))
    write_parquet(path, text=["one"] * 500, labels=["a"] * 500)
    content = path.read_bytes()
    path.write_bytes(b"\0" * 100 + content[100:])
    with pytest.raises(CalibrationError, match=r"a\.parquet is not a Parquet file"):
        open_dataset(DataOptions(path))


def test_images_are_read_by_their_path_relative_to_the_table(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "one.png").write_bytes(b"1")
    (tmp_path / "two.jpg").write_bytes(b"22")
    path = write(
        tmp_path / "a.csv", "filename,labels", "deep/one.png,a", "deep/../two.jpg,b", "two.jpg,"
    )
    data = open_dataset(DataOptions(path))
    assert data.kind == "image"
    assert list(data.read(2)) == [[b"1", b"22"], [b"22"]]


def test_an_image_column_can_be_named_by_number(tmp_path: Path) -> None:
    (tmp_path / "one.png").write_bytes(b"1")
    path = write(tmp_path / "a.tsv", "7\tx,y\tone.png")
    data = open_dataset(DataOptions(path, image_column="2"))
    assert list(data.read(1)) == [[b"1"]]
    assert sets(data) == [{"x", "y"}]


@pytest.mark.parametrize(
    "name", ["../secret.png", "deep/../../secret.png", "/etc/hostname", "..", ".", ""]
)
def test_a_path_out_of_the_tables_folder_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "secret.png").write_bytes(b"1")
    (tmp_path / "data").mkdir()
    path = write(tmp_path / "data" / "a.csv", "image,labels", f"{name},a")
    with pytest.raises(CalibrationError, match=r"a\.csv, line 2 names the image .*inside"):
        open_dataset(DataOptions(path))


def test_a_missing_image_is_named_before_any_is_read(tmp_path: Path) -> None:
    (tmp_path / "one.png").write_bytes(b"1")
    (tmp_path / "folder.png").mkdir()
    path = write(tmp_path / "a.csv", "image,labels", "one.png,a", "two.png,a")
    with pytest.raises(CalibrationError, match=r"a\.csv, line 3: there is no image at .*two\.png"):
        open_dataset(DataOptions(path))
    write(path, "image,labels", "folder.png,a")
    with pytest.raises(CalibrationError, match=r"folder\.png is not a file"):
        open_dataset(DataOptions(path))


def test_an_image_that_goes_missing_later_is_named(tmp_path: Path) -> None:
    (tmp_path / "one.png").write_bytes(b"1")
    data = open_dataset(DataOptions(write(tmp_path / "a.csv", "image,labels", "one.png,a")))
    (tmp_path / "one.png").unlink()
    with pytest.raises(CalibrationError, match=r"line 2: the image .*one\.png can no longer"):
        list(data.read(1))


def test_the_digest_follows_the_images(tmp_path: Path) -> None:
    (tmp_path / "one.png").write_bytes(b"1")
    path = write(tmp_path / "a.csv", "image,labels", "one.png,a")
    digest = open_dataset(DataOptions(path)).digest
    assert open_dataset(DataOptions(path)).digest == digest
    (tmp_path / "one.png").write_bytes(b"22")
    assert open_dataset(DataOptions(path)).digest != digest


def test_images_inside_a_parquet_file(tmp_path: Path) -> None:
    path = write_parquet(
        tmp_path / "a.parquet", image=[{"bytes": b"1", "path": None}], labels=[["a"]]
    )
    assert list(open_dataset(DataOptions(path)).read(5)) == [[b"1"]]
    write_parquet(path, image=[b"22"], labels=[["a"]])
    assert list(open_dataset(DataOptions(path)).read(5)) == [[b"22"]]
    write_parquet(path, image=[7], labels=[["a"]])
    with pytest.raises(CalibrationError, match=r"a\.parquet, row 0 has 7 as its image"):
        open_dataset(DataOptions(path))


def test_a_split_column_that_nothing_follows_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    path.write_text("text,labels,split\na,x,train\nb,y,test\n")
    with pytest.raises(CalibrationError, match=r"'split'.*--split-column split.*--ignore split"):
        open_dataset(DataOptions(path=path))
    data = open_dataset(DataOptions(path=path, split_column="split"))
    assert data.split.tolist() == [TO_BE_DRAWN, 3]
    ignored = open_dataset(DataOptions(path=path, ignored_columns=("split",)))
    assert ignored.split.tolist() == [TO_BE_DRAWN] * 2
