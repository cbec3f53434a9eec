"""Rows from a folder of images: with a table of labels, or with one folder per label."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from calibration.checks import listed
from calibration.dataset import TO_BE_DRAWN, Dataset
from calibration.image_files import SUFFIXES, image_stamp, read_image
from calibration.label_sets import read_label_names
from calibration.parts import Part, chunks
from calibration.tables import read_table
from models.errors import CalibrationError

if TYPE_CHECKING:
    from calibration.readers import DataOptions

TABLES = ("labels.csv", "labels.tsv", "labels.jsonl")


@dataclass(frozen=True)
class _LabelFolder:
    """The images that have one label.

    path : of the folder; its name is the label
    images : how many there were when the data was opened
    """

    path: Path
    images: int


def read_image_folder(path: Path, options: DataOptions) -> Part:
    """Open a folder of images.

    Either a table `labels.csv`, `labels.tsv` or `labels.jsonl` lies in it and names the images,
    or every folder in it is a label and holds the images that have this label, and no other.

    Raises
    ------
    CalibrationError
        When it is neither, or when an image is missing.
    """
    tables = [path / name for name in TABLES if (path / name).is_file()]
    if len(tables) > 1:
        raise CalibrationError(
            f"{path} has more than one table of labels: {listed(table.name for table in tables)}; "
            "keep one, or give its path instead of the folder's"
        )
    if tables:
        return read_table(tables[0], options)
    options.refuse_columns(path)
    return _read_label_folders(path, options.label_names)


def _read_label_folders(path: Path, label_names: Path | None) -> Part:
    folders = [_LabelFolder(folder, len(_images(folder))) for folder in _folders(path)]
    if not folders:
        raise CalibrationError(
            f"{path} has neither a table ({', '.join(TABLES)}) nor folders in it: expected images "
            "with a table of their labels, or one folder of images per label"
        )
    empty = [folder.path.name for folder in folders if not folder.images and _folders(folder.path)]
    if empty:
        raise CalibrationError(
            f"the folders {listed(empty)} in {path} hold folders but no images: expected one "
            "folder of images per label; where they are splits, give each on its own, with --tune, "
            "--certify or --test"
        )
    counts = [folder.images for folder in folders]
    ends = np.cumsum(counts)
    names, columns = _names(folders, label_names)
    labels = np.repeat(np.eye(len(names), dtype=bool)[columns], counts, axis=0)  # (n, L)

    def place(row: int) -> str:
        number = int(np.searchsorted(ends, row, side="right"))
        image = _images(folders[number].path)[row - int(ends[number]) + counts[number]]
        return str(image.relative_to(path.parent))

    data = Dataset(
        kind="image",
        labels=labels,
        names=names,
        read=partial(_read, folders),
        digest=_digest(folders),
        split=np.full(len(labels), TO_BE_DRAWN, np.int8),
        place=place,
    )
    return Part(path, data, open_names=label_names is None)


def _names(
    folders: list[_LabelFolder], label_names: Path | None
) -> tuple[tuple[str, ...], list[int]]:
    """The label names, and which of them each folder stands for."""
    found = tuple(folder.path.name for folder in folders)
    names = found if label_names is None else read_label_names(label_names)
    if unknown := [name for name in found if name not in names]:
        raise CalibrationError(
            f"the folders {listed(unknown)} in {folders[0].path.parent} are not among the label "
            f"names of {label_names}: expected folders named like labels; rename or add them"
        )
    return names, [names.index(name) for name in found]


def _read(folders: list[_LabelFolder], size: int) -> Iterator[list[bytes]]:
    images = (read_image(image, image.name) for folder in folders for image in _listed(folder))
    yield from chunks(images, size)


def _listed(folder: _LabelFolder) -> list[Path]:
    """The images of a folder, as many as there were when the labels were made from them."""
    images = _images(folder.path)
    if len(images) != folder.images:
        raise CalibrationError(
            f"{folder.path} changed while it was read: {folder.images} images before, "
            f"{len(images)} now; start again and leave it alone"
        )
    return images


def _digest(folders: list[_LabelFolder]) -> str:
    digest = hashlib.sha256()
    for folder in folders:
        digest.update(f"{folder.path.name} {folder.images}\n".encode("utf-8", "surrogateescape"))
        for image in _listed(folder):
            digest.update(image_stamp(image, image.name))
    return digest.hexdigest()


def _folders(path: Path) -> list[Path]:
    return sorted(entry for entry in path.iterdir() if entry.is_dir() and not _hidden(entry))


def _images(folder: Path) -> list[Path]:
    return sorted(
        entry
        for entry in folder.iterdir()
        if entry.suffix.casefold() in SUFFIXES and not _hidden(entry)
    )


def _hidden(entry: Path) -> bool:
    return entry.name.startswith(".")
