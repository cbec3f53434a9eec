"""What the doors answer, read into arrays: every protocol's answer comes in parts of one kind."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from models.runtime import Answers

TENSORS = {
    "labels": np.dtype(np.bool_),
    "probabilities": np.dtype(np.float32),
    "exit": np.dtype(np.int32),
    "score": np.dtype(np.float32),
    "certified": np.dtype(np.bool_),
}


@dataclass(frozen=True)
class Part:
    """The answer to b rows of a request.

    version : of the model that answered
    places : int (b,), the rows' places in the request
    exits : int (b,)
    certified : bool (b,)
    passed : exit number -> the rows, int (c,), whose answers there are told, and these
    """

    version: str
    places: np.ndarray
    exits: np.ndarray
    answers: Answers
    certified: np.ndarray
    passed: Mapping[int, tuple[np.ndarray, Answers]] = field(default_factory=dict)


def json_parts(body: bytes, names: Sequence[str]) -> list[Part]:
    """An answer of `/predict`."""
    document = json.loads(body)
    rows = document["rows"]
    return [_rows_part(document["version"], range(len(rows)), rows, names)]


def line_parts(body: bytes, names: Sequence[str]) -> tuple[list[Part], str]:
    """The lines of `/predict`, and the error that ended them."""
    lines = [json.loads(line) for line in body.splitlines()]
    rows = [line for line in lines if "error" not in line]
    error = next((line["error"] for line in lines if "error" in line), "")
    versions = dict.fromkeys(row["version"] for row in rows)
    parts = []
    for version in versions:
        mine = [row for row in rows if row["version"] == version]
        parts.append(_rows_part(version, [row["row"] for row in mine], mine, names))
    return parts, error


def rest_parts(body: bytes) -> list[Part]:
    """A JSON answer of the Open Inference Protocol."""
    document = json.loads(body)
    arrays = {
        output["name"]: np.array(output["data"], TENSORS[output["name"]]).reshape(output["shape"])
        for output in document["outputs"]
    }
    return [_tensor_part(document["model_version"], arrays)]


def binary_parts(body: bytes, json_length: int) -> list[Part]:
    """An answer of the Open Inference Protocol with raw tensors."""
    document, place = json.loads(body[:json_length]), json_length
    arrays = {}
    for output in document["outputs"]:
        size = output["parameters"]["binary_data_size"]
        raw = np.frombuffer(body[place : place + size], TENSORS[output["name"]])
        arrays[output["name"]] = raw.reshape(output["shape"])
        place += size
    return [_tensor_part(document["model_version"], arrays)]


def rpc_part(result: Any) -> Part:
    """A response that tritonclient has read, whole or of a stream."""
    arrays = {name: result.as_numpy(name) for name in TENSORS}
    return _tensor_part(result.get_response().model_version, arrays, result.as_numpy("row"))


def _tensor_part(
    version: str, arrays: Mapping[str, np.ndarray], places: np.ndarray | None = None
) -> Part:
    answers = Answers(arrays["probabilities"], arrays["labels"], arrays["score"])
    rows = np.arange(len(answers)) if places is None else places
    return Part(version, rows, arrays["exit"], answers, arrays["certified"])


def _rows_part(
    version: str, places: Sequence[int], rows: Sequence[Any], names: Sequence[str]
) -> Part:
    passed: dict[int, tuple[list[int], list[Any]]] = {}
    for place, row in zip(places, rows, strict=True):
        for one in row.get("all_exits", ()):
            mine, answers = passed.setdefault(one["exit"], ([], []))
            mine.append(place)
            answers.append(one)
    return Part(
        version,
        np.array(places),
        np.array([row["exit"] for row in rows]),
        _answers(rows, names),
        np.array([row["certified"] for row in rows]),
        {number: (np.array(mine), _answers(of, names)) for number, (mine, of) in passed.items()},
    )


def _answers(rows: Sequence[Any], names: Sequence[str]) -> Answers:
    sets = [{label["name"] for label in row["labels"]} for row in rows]
    return Answers(
        np.array([[row["probabilities"][name] for name in names] for row in rows], np.float32),
        np.array([[name in chosen for name in names] for chosen in sets], bool),
        np.array([row["score"] for row in rows], np.float32),
    )
