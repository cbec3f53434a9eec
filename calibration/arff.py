"""Rows from a MULAN file: ARFF, dense or sparse, with its labels listed in an XML file beside it.

References
----------
[1] Tsoumakas et al., "MULAN: a Java library for multi-label learning", JMLR 12, 2011.
[2] ARFF: https://waikato.github.io/weka-wiki/formats_and_processing/arff_stable/
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING
from xml.etree import ElementTree

import numpy as np

from calibration.checks import as_flags, check_names, listed, repeated
from calibration.dataset import TO_BE_DRAWN, Dataset
from calibration.label_sets import read_label_names
from calibration.parts import Part, chunks, file_digest, numbered
from models.errors import CalibrationError

if TYPE_CHECKING:
    from calibration.readers import DataOptions

ROWS_AT_ONCE = 1024
NUMERIC = ("numeric", "real", "integer")
ATTRIBUTE = re.compile(
    r"""@attribute\s+('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|[^\s{]+)\s*(.*)""", re.IGNORECASE
)
SPLIT_SUFFIX = re.compile(r"-(train|test)$")


@dataclass(frozen=True)
class _Header:
    """The attributes of a file.

    names : A attribute names
    omitted : float32 (A,), what an attribute is worth where a sparse row leaves it out: 0, or the
        first value of a nominal attribute [2]
    """

    names: tuple[str, ...]
    omitted: np.ndarray


def read_arff(path: Path, options: DataOptions) -> Part:
    """Open the rows of an `.arff` file.

    Attributes are numeric or nominal with numbers as values. Those that the XML file lists are the
    labels, 0 or 1, in the order of the attributes; the others are the features, float32. The XML
    file has the name of the ARFF file, or that name without `-train` or `-test`; without one, the
    labels are those of `options.label_names`.

    Raises
    ------
    CalibrationError
        When labels are not attributes or not 0/1, and at the line of any row that cannot be parsed
        or has missing values (`?`).
    """
    options.refuse_columns(path)
    header = _read_header(path)
    is_label = _label_attributes(path, header, options.label_names)
    names = tuple(name for name, label in zip(header.names, is_label, strict=True) if label)
    lines, labels = _read_labels(path, header, is_label, names)

    def read(size: int) -> Iterator[np.ndarray]:
        for chunk in chunks(_rows(path, header), size):
            yield np.stack([row[~is_label] for _, row in chunk])  # (b, A - L)

    data = Dataset(
        kind="numbers",
        labels=labels,
        names=names,
        read=read,
        digest=file_digest(path, names),
        split=np.full(len(lines), TO_BE_DRAWN, np.int8),
        place=numbered(path, lines),
    )
    features = [name for name, label in zip(header.names, is_label, strict=True) if not label]
    return Part(path, data, features=tuple(features))


def _read_labels(
    path: Path, header: _Header, is_label: np.ndarray, names: tuple[str, ...]
) -> tuple[array[int], np.ndarray]:
    """Line numbers (n,) and labels bool (n, L); parses every value once."""
    lines = array("I")
    parts = [np.zeros((0, len(names)), bool)]
    for chunk in chunks(_rows(path, header), ROWS_AT_ONCE):
        place = numbered(path, [line for line, _ in chunk])
        values = np.stack([row for _, row in chunk])[:, is_label]  # (b, L)
        parts.append(as_flags(values, names, place))
        lines.extend(line for line, _ in chunk)
    return lines, np.concatenate(parts)


def _read_header(path: Path) -> _Header:
    names: list[str] = []
    omitted: list[float] = []
    with _open(path) as file:
        for line in _header_lines(path, file):
            match = ATTRIBUTE.fullmatch(line)
            if match is None:
                raise CalibrationError(
                    f"{path} has the header line {line!r}: expected @attribute, a name and a type"
                )
            names.append(_unquoted(match[1]))
            omitted.append(_omitted_value(names[-1], match[2].strip(), path))
    twice = repeated(names)
    if twice or not names:
        found = f"repeats the attributes {listed(twice)}" if twice else "has no attributes"
        raise CalibrationError(f"{path} {found}: expected one @attribute line per column")
    return _Header(tuple(names), np.array(omitted, np.float32))


def _header_lines(path: Path, lines: Iterable[str]) -> Iterator[str]:
    """Lines before @data, but for comments, blank lines and the relation's name."""
    for line in lines:
        text = line.strip()
        if text.casefold() == "@data":
            return
        if text and not text.startswith("%") and not text.casefold().startswith("@relation"):
            yield text
    raise CalibrationError(f"{path} has no @data line: it is not an ARFF file, or it is truncated")


def _omitted_value(name: str, kind: str, path: Path) -> float:
    if kind.casefold().startswith(NUMERIC):
        return 0.0
    try:
        if kind.startswith("{") and kind.endswith("}"):
            values = [float(value.strip(" '\"")) for value in kind[1:-1].split(",")]
            return values[0]
    except ValueError:
        pass
    raise CalibrationError(
        f"attribute {name!r} of {path} has the type {kind or 'nothing'}: expected numeric, real, "
        "integer, or a list of numbers such as {0,1}; encode it as numbers, or remove it"
    )


def _label_attributes(path: Path, header: _Header, label_names: Path | None) -> np.ndarray:
    """Which attributes are labels: bool (A,)."""
    if label_names:
        source, labels = label_names, read_label_names(label_names)
    else:
        source = _label_list(path)
        labels = _read_label_list(source)
    unknown = [name for name in labels if name not in set(header.names)]
    if unknown:
        raise CalibrationError(
            f"{source} lists the labels {listed(unknown)}, which are no attributes of {path}: "
            "expected every label among its @attribute lines"
        )
    is_label = np.isin(header.names, labels)
    if is_label.all():
        raise CalibrationError(
            f"{source} lists all attributes of {path} as labels: expected features beside them"
        )
    return is_label


def _label_list(path: Path) -> Path:
    stems = dict.fromkeys([path.stem, SPLIT_SUFFIX.sub("", path.stem)])
    lists = [path.with_name(f"{stem}.xml") for stem in stems]
    for candidate in lists:
        if candidate.is_file():
            return candidate
    raise CalibrationError(
        f"no list of labels beside {path}: expected {' or '.join(map(str, lists))} as in MULAN's "
        "data sets, or a text file with one label per line, given with --label-names"
    )


def _read_label_list(path: Path) -> tuple[str, ...]:
    try:
        elements = ElementTree.parse(path).iter()
    except ElementTree.ParseError as error:
        raise CalibrationError(
            f"{path} is not XML ({error}): expected MULAN's list of <label name=...> elements"
        ) from error
    labels = [element for element in elements if element.tag.rpartition("}")[2] == "label"]
    names = tuple(element.get("name", "") for element in labels)
    check_names(names, str(path))
    return names


def _open(path: Path) -> IO[str]:
    return path.open(encoding="utf-8-sig", newline="\n")


def _rows(path: Path, header: _Header) -> Iterator[tuple[int, np.ndarray]]:
    """Line number and values, float32 (A,), of every row."""
    with _open(path) as file:
        lines = enumerate(file, start=1)
        for _, line in lines:
            if line.strip().casefold() == "@data":
                break
        for number, line in lines:
            text = line.strip()
            if text and not text.startswith("%"):
                yield number, _values(text, header, f"{path.name}, line {number}")


def _values(text: str, header: _Header, place: str) -> np.ndarray:
    if "?" in text:
        raise CalibrationError(
            f"{place} has a missing value (?): expected a number everywhere; fill it in, or remove "
            "the row"
        )
    text = text.replace("'", "").replace('"', "")
    try:
        return _sparse(text, header) if text.startswith("{") else _dense(text, header)
    except (ValueError, OverflowError) as error:
        raise CalibrationError(
            f"{place} is not a row of {len(header.names)} numbers: {error}; expected values "
            "separated by commas, or pairs of attribute number and value in braces"
        ) from error


def _dense(text: str, header: _Header) -> np.ndarray:
    values = np.array(text.split(","), np.float32)
    if len(values) != len(header.names):
        raise ValueError(f"{len(values)} values found")
    return values


def _sparse(text: str, header: _Header) -> np.ndarray:
    row = header.omitted.copy()
    pairs = [pair.split() for pair in text[1:-1].split(",")] if text[1:-1].strip() else []
    if not text.endswith("}") or any(len(pair) != 2 for pair in pairs):
        raise ValueError("it begins with a brace but is no list of pairs of index and value")
    indices = np.array([index for index, _ in pairs], np.int64)
    outside = indices[(indices < 0) | (indices >= len(row))]
    if len(outside):
        raise ValueError(f"there is no attribute number {outside[0]}")
    row[indices] = np.array([value for _, value in pairs], np.float32)
    return row


def _unquoted(name: str) -> str:
    if name[0] not in "'\"":
        return name
    return re.sub(r"\\(.)", r"\1", name[1:-1])
