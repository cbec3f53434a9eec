"""Folders of images: with a table, or with one folder per label."""

from __future__ import annotations

from pathlib import Path

import pytest

from calibration.dataset import TO_BE_DRAWN
from calibration.readers import DataOptions, open_dataset
from models.errors import CalibrationError
from tests.calibration.test_readers import sets, write


def fill(folder: Path, **images: list[str]) -> Path:
    """Folders by name, each with images whose content is their name."""
    for name, files in images.items():
        (folder / name).mkdir(parents=True)
        for file in files:
            (folder / name / file).write_bytes(file.encode())
    return folder


@pytest.mark.parametrize("size", [1, 2, 5])
def test_every_folder_is_a_label(tmp_path: Path, size: int) -> None:
    fill(tmp_path, dog=["b.JPG", "a.png", "notes.txt", ".hidden.png"], cat=["c.webp"])
    fill(tmp_path, **{".git": ["d.png"]})
    data = open_dataset(DataOptions(tmp_path))
    assert data.kind == "image"
    assert data.names == ("cat", "dog")
    assert sets(data) == [{"cat"}, {"dog"}, {"dog"}]
    assert [row for chunk in data.read(size) for row in chunk] == [b"c.webp", b"a.png", b"b.JPG"]
    assert data.place(2) == f"{tmp_path.name}/dog/b.JPG"
    assert data.split.tolist() == [TO_BE_DRAWN] * 3


def test_folders_of_splits_are_joined(tmp_path: Path) -> None:
    train = fill(tmp_path / "train", cat=["a.png"], dog=["b.png"])
    test = fill(tmp_path / "test", dog=["c.png"], eel=["d.png"])
    data = open_dataset(DataOptions(train, test=test))
    assert data.names == ("cat", "dog", "eel")
    assert sets(data) == [{"cat"}, {"dog"}, {"dog"}, {"eel"}]
    assert data.split.tolist() == [TO_BE_DRAWN, TO_BE_DRAWN, 3, 3]


def test_label_names_give_the_order_of_folders(tmp_path: Path) -> None:
    folder = fill(tmp_path / "data", cat=["a.png"], dog=["b.png"])
    names = write(tmp_path / "labels.txt", "dog", "cat")
    data = open_dataset(DataOptions(folder, label_names=names))
    assert data.names == ("dog", "cat")
    assert sets(data) == [{"cat"}, {"dog"}]
    write(names, "dog")
    with pytest.raises(CalibrationError, match=r"folders 'cat' .* not among the label names"):
        open_dataset(DataOptions(folder, label_names=names))


def test_a_label_without_images_is_absent(tmp_path: Path) -> None:
    fill(tmp_path, cat=["a.png"], dog=[])
    with pytest.raises(CalibrationError, match=r"never occur .* 'dog'"):
        open_dataset(DataOptions(tmp_path))


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("labels.csv", ["image,labels", 'a.png,"x,y"', "b.png,"]),
        ("labels.tsv", ["file\ttags", "a.png\tx,y", "b.png\t"]),
        (
            "labels.jsonl",
            ['{"image": "a.png", "labels": ["x", "y"]}', '{"image": "b.png", "labels": []}'],
        ),
    ],
)
def test_a_table_in_the_folder_gives_the_labels(
    tmp_path: Path, name: str, lines: list[str]
) -> None:
    fill(tmp_path, images=["a.png"])
    (tmp_path / "a.png").write_bytes(b"1")
    (tmp_path / "b.png").write_bytes(b"22")
    table = write(tmp_path / name, *lines)
    data = open_dataset(DataOptions(tmp_path))
    assert sets(data) == [{"x", "y"}, set()]
    assert list(data.read(5)) == [[b"1", b"22"]]
    assert data.digest == open_dataset(DataOptions(table)).digest


def test_two_tables_are_ambiguous(tmp_path: Path) -> None:
    write(tmp_path / "labels.csv")
    write(tmp_path / "labels.tsv")
    with pytest.raises(CalibrationError, match=r"'labels\.csv', 'labels\.tsv'; keep one"):
        open_dataset(DataOptions(tmp_path))


def test_a_folder_of_neither_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match=r"neither a table \(labels\.csv"):
        open_dataset(DataOptions(tmp_path))


def test_a_folder_of_splits_is_not_taken_for_labels(tmp_path: Path) -> None:
    fill(tmp_path / "train", cat=["a.png"])
    fill(tmp_path / "test", cat=["a.png"])
    with pytest.raises(CalibrationError, match=r"'test', 'train' .* hold folders.*--tune"):
        open_dataset(DataOptions(tmp_path))


def test_columns_are_refused_for_folders_of_labels(tmp_path: Path) -> None:
    fill(tmp_path, cat=["a.png"])
    with pytest.raises(CalibrationError, match=r"'image' are named, but .* is not a table"):
        open_dataset(DataOptions(tmp_path, image_column="image"))


def test_a_folder_that_changes_is_noticed(tmp_path: Path) -> None:
    fill(tmp_path, cat=["a.png"], dog=["b.png"])
    data = open_dataset(DataOptions(tmp_path))
    (tmp_path / "cat" / "a.png").rename(tmp_path / "dog" / "a.png")
    with pytest.raises(CalibrationError, match="changed while it was read: 1 images before, 0 now"):
        list(data.read(5))


def test_the_digest_follows_the_images(tmp_path: Path) -> None:
    fill(tmp_path, cat=["a.png"], dog=["b.png"])
    digest = open_dataset(DataOptions(tmp_path)).digest
    assert open_dataset(DataOptions(tmp_path)).digest == digest
    (tmp_path / "cat" / "a.png").write_bytes(b"another")
    assert open_dataset(DataOptions(tmp_path)).digest != digest
