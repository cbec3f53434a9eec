"""What holds for data of any format: options, splits by file or column, and the common checks."""

from __future__ import annotations

import json
import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from calibration.dataset import SPLITS, TO_BE_DRAWN, Dataset
from calibration.label_sets import ROWS_AT_ONCE, LabelSets
from calibration.readers import DataOptions, open_dataset
from calibration.splits import assign_splits
from models.errors import CalibrationError

FIT, TUNE, CERTIFY, TEST = range(len(SPLITS))


def write(path: Path, *lines: str) -> Path:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def texts(data: Dataset, size: int = 2) -> list[str]:
    return [row for chunk in data.read(size) for row in chunk]


def sets(data: Dataset) -> list[set[str]]:
    return [{data.names[label] for label in np.flatnonzero(row)} for row in data.labels]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return write(tmp_path / "main.tsv", "one\ta", "two\ta,b", "three\t")


def test_files_of_splits_are_joined_with_the_main_file(table: Path, tmp_path: Path) -> None:
    test = write(tmp_path / "test.tsv", "four\tb")
    tune = write(tmp_path / "dev.tsv", "five\t", "six\ta")
    data = open_dataset(DataOptions(table, tune=tune, test=test))
    assert texts(data) == ["one", "two", "three", "five", "six", "four"]
    assert sets(data) == [{"a"}, {"a", "b"}, set(), set(), {"a"}, {"b"}]
    assert data.split.tolist() == [TO_BE_DRAWN] * 3 + [TUNE, TUNE, TEST]
    assert [data.place(row) for row in (0, 2, 3, 5)] == [
        "main.tsv, line 1",
        "main.tsv, line 3",
        "dev.tsv, line 1",
        "test.tsv, line 1",
    ]


def test_labels_that_occur_in_one_file_only_are_labels_of_all(table: Path, tmp_path: Path) -> None:
    test = write(tmp_path / "test.tsv", "four\tz,a", "five\t0")
    data = open_dataset(DataOptions(table, test=test))
    assert data.names == ("0", "a", "b", "z")
    assert sets(data)[3:] == [{"z", "a"}, {"0"}]


def test_fixed_label_names_must_agree_between_files(tmp_path: Path) -> None:
    main = write(tmp_path / "a.csv", "x,up,down", "1,0,1", "2,1,0")
    same = write(tmp_path / "b.csv", "x,down,up", "3,0,1")
    columns = ("up", "down")
    data = open_dataset(DataOptions(main, test=same, label_columns=columns))
    assert sets(data) == [{"down"}, {"up"}, {"up"}]
    np.savez(tmp_path / "c.npz", x=np.ones((2, 1)), y=np.eye(2), names=["up", "left"])
    np.savez(tmp_path / "d.npz", x=np.ones((2, 1)), y=np.eye(2), names=["down", "up"])
    with pytest.raises(CalibrationError, match=r"differ in their labels.*'down', 'left'"):
        open_dataset(DataOptions(tmp_path / "c.npz", test=tmp_path / "d.npz"))


def test_files_of_different_kinds_are_refused(table: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "test.npz", x=np.ones((2, 1)), y=np.eye(2))
    with pytest.raises(CalibrationError, match=r"of kind numbers, .*main\.tsv has text"):
        open_dataset(DataOptions(table, test=tmp_path / "test.npz"))


def test_files_of_different_features_are_refused(tmp_path: Path) -> None:
    main = write(tmp_path / "a.csv", "x,y,labels", "1,2,a")
    swapped = write(tmp_path / "b.csv", "y,x,labels", "1,2,a")
    more = write(tmp_path / "c.csv", "x,y,z,labels", "1,2,3,a")
    with pytest.raises(CalibrationError, match="'y' against 'x'"):
        open_dataset(DataOptions(main, test=swapped))
    with pytest.raises(CalibrationError, match="3 against 2"):
        open_dataset(DataOptions(main, test=more))


def test_one_file_cannot_be_two_splits(table: Path, tmp_path: Path) -> None:
    link = tmp_path / "link.tsv"
    link.symlink_to(table)
    with pytest.raises(CalibrationError, match="must not overlap"):
        open_dataset(DataOptions(table, test=link))


def test_a_split_column_takes_usual_aliases(tmp_path: Path) -> None:
    values = ["train", "Validation", "calibration", "test", "dev", "fit", "val"]
    path = write(
        tmp_path / "a.csv", "text,labels,part", *(f"{value},a,{value}" for value in values)
    )
    data = open_dataset(DataOptions(path, split_column="part"))
    assert data.split.tolist() == [FIT, TUNE, CERTIFY, TEST, TUNE, FIT, TUNE]


def test_splits_that_a_split_column_leaves_empty_are_drawn_from_fit(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.csv",
        "text,labels,part",
        *(["r,a,train"] * 400 + ["r,a,val"] * 100 + ["r,a,test"] * 60),
    )
    data = open_dataset(DataOptions(path, split_column="part"))
    assert data.split.tolist() == [TO_BE_DRAWN] * 400 + [TUNE] * 100 + [TEST] * 60
    split = assign_splits(data, seed=0)
    assert np.bincount(split).tolist() == [320, 100, 80, 60]
    assert (split[400:] == data.split[400:]).all()


def test_a_file_for_a_split_may_have_the_split_column_too(tmp_path: Path) -> None:
    main = write(tmp_path / "a.csv", "x,labels,part", "1,a,train")
    test = write(tmp_path / "b.csv", "x,labels,part", "2,a,whatever")
    data = open_dataset(DataOptions(main, test=test, split_column="part"))
    assert data.split.tolist() == [TO_BE_DRAWN, TEST]
    assert np.concatenate(list(data.read(1))).tolist() == [[1.0], [2.0]]


def test_an_unknown_split_is_named_with_the_known_ones(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "text,labels,part", "r,a,fit", "r,a,holdout")
    with pytest.raises(CalibrationError, match=r"a\.csv, line 3 .*'holdout'.*fit, tune, certify"):
        open_dataset(DataOptions(path, split_column="part"))


def test_a_split_column_without_fit_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "text,labels,part", "r,a,test")
    with pytest.raises(CalibrationError, match="no row into fit"):
        open_dataset(DataOptions(path, split_column="part"))


def test_label_ids_are_positions_among_given_names(tmp_path: Path) -> None:
    names = write(tmp_path / "labels.txt", "joy", "fear", "anger")
    path = write(tmp_path / "a.tsv", "one\t2,0", "two\t", "three\tfear")
    data = open_dataset(DataOptions(path, label_names=names))
    assert data.names == ("joy", "fear", "anger")
    assert sets(data) == [{"anger", "joy"}, set(), {"fear"}]


@pytest.mark.parametrize("label", ["3", "-1"])
def test_a_label_id_out_of_range_is_named_with_its_line(tmp_path: Path, label: str) -> None:
    names = write(tmp_path / "labels.txt", "joy", "fear", "anger")
    path = write(tmp_path / "a.tsv", "one\t2,0", f"two\t1,{label}")
    with pytest.raises(CalibrationError, match=rf"a\.tsv, line 2 has the label id {label}.*0 to 2"):
        open_dataset(DataOptions(path, label_names=names))


def test_a_name_that_is_not_among_given_names_is_named(tmp_path: Path) -> None:
    names = write(tmp_path / "labels.txt", "joy", "fear")
    path = write(tmp_path / "a.tsv", "one\tfaer")
    with pytest.raises(CalibrationError, match=r"line 1 has the label 'faer'.*'joy', 'fear'"):
        open_dataset(DataOptions(path, label_names=names))


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["joy", "fear", "joy"], "repeat: 'joy'"),
        (["joy", "", "fear"], "empty name for label number 1"),
        ([], "has no labels"),
    ],
)
def test_label_names_must_be_usable(table: Path, lines: list[str], message: str) -> None:
    names = write(table.with_name("labels.txt"), *lines)
    with pytest.raises(CalibrationError, match=message):
        open_dataset(DataOptions(table, label_names=names))


def test_label_names_that_cannot_be_read_are_named(table: Path, tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match=r"nowhere\.txt"):
        open_dataset(DataOptions(table, label_names=tmp_path / "nowhere.txt"))


def test_absent_labels_are_refused_or_dropped(table: Path) -> None:
    names = write(table.with_name("labels.txt"), "x", "a", "b", "y")
    with pytest.raises(CalibrationError, match=r"2 of 4 labels never occur.*'x', 'y'.*--drop"):
        open_dataset(DataOptions(table, label_names=names))
    data = open_dataset(DataOptions(table, label_names=names, drop_absent_labels=True))
    assert data.names == ("a", "b")
    assert sets(data) == [{"a"}, {"a", "b"}, set()]


def test_rows_that_all_have_no_label_are_refused(table: Path) -> None:
    bare = write(table.with_name("bare.tsv"), "one\t", "two\t")
    with pytest.raises(CalibrationError, match="has no labels"):
        open_dataset(DataOptions(bare))
    names = write(table.with_name("labels.txt"), "x", "y")
    with pytest.raises(CalibrationError, match=r"no row of .* has any of the labels 'x', 'y'"):
        open_dataset(DataOptions(bare, label_names=names, drop_absent_labels=True))


@pytest.mark.parametrize("name", ["a.tsv", "a.csv", "a.jsonl"])
def test_an_empty_file_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(CalibrationError, match=rf"{name} is empty"):
        open_dataset(DataOptions(write(tmp_path / name)))


def test_a_header_without_rows_is_refused_for_every_split(table: Path, tmp_path: Path) -> None:
    bare = write(tmp_path / "bare.csv", "text,labels")
    with pytest.raises(CalibrationError, match=r"bare\.csv has no rows"):
        open_dataset(DataOptions(bare))
    with pytest.raises(CalibrationError, match=r"bare\.csv has no rows"):
        open_dataset(DataOptions(table, test=bare))


def test_what_cannot_be_read_is_said_plainly(table: Path, tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match=r"nowhere\.tsv cannot be read"):
        open_dataset(DataOptions(tmp_path / "nowhere.tsv"))
    with pytest.raises(CalibrationError, match=r"main\.docx cannot be read as data.*\.arff, \.csv"):
        open_dataset(DataOptions(table.with_suffix(".docx")))
    table.write_bytes("grün\ta".encode("latin-1"))
    with pytest.raises(CalibrationError, match=r"not in UTF-8.*0xfc"):
        open_dataset(DataOptions(table))


@pytest.mark.parametrize(
    "options", [{"text_column": "a", "image_column": "b"}, {"label_separator": ""}]
)
def test_options_that_contradict_are_refused(options: dict[str, str]) -> None:
    with pytest.raises(CalibrationError, match="expected"):
        DataOptions(Path("a.csv"), **options)  # type: ignore[arg-type]


def test_columns_are_refused_where_there_are_none(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.ones((2, 1)), y=np.eye(2))
    with pytest.raises(CalibrationError, match=r"'split' are named, but .*a\.npz is not a table"):
        open_dataset(DataOptions(tmp_path / "a.npz", split_column="split"))


@pytest.mark.parametrize("change", ["one\ta\n", "one\ta\ntwo\ta\nthree\ta\nfour\ta\n", None])
def test_a_file_that_changes_between_passes_is_noticed(table: Path, change: str | None) -> None:
    data = open_dataset(DataOptions(table))
    table.unlink() if change is None else table.write_text(change)
    with pytest.raises(CalibrationError, match=r"changed while it was read|cannot be read"):
        texts(data)


def test_the_digest_follows_the_rows(table: Path, tmp_path: Path) -> None:
    digest = open_dataset(DataOptions(table)).digest
    assert open_dataset(DataOptions(table)).digest == digest
    copy = write(tmp_path / "copy.tsv", *table.read_text().splitlines())
    assert open_dataset(DataOptions(copy)).digest == digest
    assert open_dataset(DataOptions(table, test=copy)).digest != digest
    columns = DataOptions(table, text_column="1", label_columns=("0",))
    assert open_dataset(columns).digest != digest
    write(copy, "One\ta", "two\ta,b", "three\t")
    assert open_dataset(DataOptions(copy)).digest != digest


def test_label_sets_of_many_rows_become_one_matrix() -> None:
    """More rows than are filled in at once."""
    expected = np.random.default_rng(0).random((ROWS_AT_ONCE + 5000, 3)) < 0.5
    collected = LabelSets(["a", "b", "c"])
    for row in expected:
        collected.add_ids(np.flatnonzero(row).tolist())
    names, labels = collected.matrix()
    assert names == ("a", "b", "c")
    np.testing.assert_array_equal(labels, expected)


def peak_of_reading(path: Path) -> tuple[int, Dataset]:
    tracemalloc.start()
    try:
        data = open_dataset(DataOptions(path))
        assert sum(len(chunk) for chunk in data.read(32)) == len(data)
        return tracemalloc.get_traced_memory()[1] - data.labels.nbytes, data
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("ending", ["tsv", "csv", "jsonl"])
def test_memory_does_not_grow_with_the_rows_contents(tmp_path: Path, ending: str) -> None:
    """Ten times the rows, two megabytes more of text: a few bytes per row are kept."""
    row = {"text": "word " * 100, "labels": "a,b"}
    line = {
        "tsv": f"{row['text']}\t{row['labels']}",
        "csv": f'{row["text"]},"{row["labels"]}"',
        "jsonl": json.dumps(row),
    }[ending]
    header = ["text,labels"] if ending == "csv" else []
    small = write(tmp_path / f"small.{ending}", *header, *[line] * 450)
    large = write(tmp_path / f"large.{ending}", *header, *[line] * 4500)
    peak_of_reading(small)  # imports and caches
    before, _ = peak_of_reading(small)
    after, data = peak_of_reading(large)
    assert len(data) == 4500
    assert os.path.getsize(large) > 2_000_000
    assert after - before < 100 * 4050
    assert after < 2 * before + 64 * 4050
