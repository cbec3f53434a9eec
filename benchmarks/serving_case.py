"""What is served side by side: a bundle and its rows, as requests for every server's doors."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from tritonclient.grpc import service_pb2

from calibration.dataset import SPLITS, split_rows
from calibration.digits import compose_digits
from calibration.readers import DataOptions, open_dataset
from models.bundle import Bundle, read_bundle
from models.encoding import RawRows

Format = Literal["predict", "OIP JSON", "OIP gRPC"]
PREDICT, INFER = "/predict", "/v2/models/{}/infer"
ANSWERS = ("probabilities", "labels")
DIGITS = 3  # behind the point
ALL = ("a", "a'", "b", "c", "d", "e", "f")
PEER = "peer"
"""What MLServer calls its model."""


@dataclass(frozen=True)
class Case:
    """Rows with the truth about them.

    bundle : with the certified policy
    nearest : a bundle whose last exit is the layer that the profile found nearest to the labels;
        the same one where that exit is none of its own
    static : number of the exit of `nearest` at which a model is cut off for all rows
    rows : n raw rows
    truth : bool (n, L)
    keys : of the contenders
    asked : whether it has targets
    """

    name: str
    bundle: Bundle
    nearest: Bundle
    static: int
    rows: RawRows
    truth: np.ndarray
    keys: Sequence[str] = ALL
    asked: bool = False
    _written: dict[tuple[Format, str, int], list[bytes]] = field(default_factory=dict)

    @property
    def labels(self) -> tuple[str, ...]:
        """Names."""
        return self.bundle.manifest.labels

    @property
    def is_text(self) -> bool:
        """Whether rows are texts, and not numbers."""
        return isinstance(self.rows[0], str)

    @property
    def is_whole(self) -> bool:
        """Whether all contenders are compared."""
        return self.keys == ALL

    @property
    def static_layer(self) -> str:
        """Where the static model ends."""
        return self.nearest.manifest.exits[self.static - 1].layer

    def requests(self, format_: Format, model: str, size: int) -> list[bytes]:
        """All rows in their order, `size` of them in a request; the last few are left out."""
        key = (format_, model, size)
        if key not in self._written:
            starts = range(0, len(self.rows) - size + 1, size)
            parts = [self.rows[start : start + size] for start in starts]
            self._written[key] = [self._write(format_, model, part) for part in parts]
        return self._written[key]

    def sets(self, format_: Format, answer: bytes) -> np.ndarray:
        """The label sets of an answer, bool (b, L)."""
        if format_ == "predict":
            return self._named(json.loads(answer))
        if format_ == "OIP JSON":
            outputs = {output["name"]: output for output in json.loads(answer)["outputs"]}
            return np.array(outputs["labels"]["data"], bool).reshape(-1, len(self.labels))
        response = service_pb2.ModelInferResponse.FromString(answer)
        place = [output.name for output in response.outputs].index("labels")
        if response.raw_output_contents:
            values = np.frombuffer(response.raw_output_contents[place], bool)
        else:
            values = np.array(response.outputs[place].contents.bool_contents, bool)
        return values.reshape(-1, len(self.labels))

    @cached_property
    def _places(self) -> Mapping[str, int]:
        return {name: place for place, name in enumerate(self.labels)}

    def _named(self, answer: Any) -> np.ndarray:
        rows = answer["rows"] if isinstance(answer, dict) else answer
        sets = np.zeros((len(rows), len(self.labels)), bool)
        for row, told in enumerate(rows):
            names = [x["name"] if isinstance(x, dict) else x for x in told["labels"]]
            sets[row, [self._places[name] for name in names]] = True
        return sets

    def _write(self, format_: Format, model: str, rows: RawRows) -> bytes:
        if format_ == "predict":
            return json.dumps({"rows": _plain(rows)}).encode()
        datatype, shape = ("BYTES", [len(rows)]) if self.is_text else ("FP32", list(rows.shape))
        name = "text" if self.is_text else self.bundle.manifest.inputs[0].name
        if format_ == "OIP JSON":
            data = _plain(rows) if self.is_text else _plain(rows.ravel())
            tensor = {"name": name, "shape": shape, "datatype": datatype, "data": data}
            outputs = [{"name": wanted} for wanted in ANSWERS]
            return json.dumps({"inputs": [tensor], "outputs": outputs}).encode()
        request = service_pb2.ModelInferRequest(model_name=model)
        given = request.inputs.add(name=name, datatype=datatype, shape=shape)
        if self.is_text:
            given.contents.bytes_contents.extend(text.encode() for text in rows)
        else:
            request.raw_input_contents.append(rows.tobytes())
        for wanted in ANSWERS:
            request.outputs.add(name=wanted)
        return bytes(request.SerializeToString())


def digits_case(path: Path, rows: int) -> Case:
    """The embedded digits, rows of their test split.

    The layer nearest to the labels is the last; cut off is the one before it.
    """
    bundle = read_bundle(path)
    data = compose_digits(rows={**dict.fromkeys(SPLITS, 1), "test": rows})
    images = split_rows(data, "test").round(DIGITS)
    truth = data.labels[data.split == SPLITS.index("test")]
    return Case("digits", bundle, bundle, bundle.manifest.depth - 1, images, truth)


def text_case(path: Path, nearest: Path, data: Path, rows: int) -> Case:
    """GoEmotions, rows of its test split.

    Parameters
    ----------
    path : bundle that is held to the model
    nearest : bundle that is held to the labels, which ends at the layer nearest to them
    data : with `test.tsv` and `labels.txt`
    """
    bundle, other = read_bundle(path), read_bundle(nearest)
    test = open_dataset(DataOptions(path=data / "test.tsv", label_names=data / "labels.txt"))
    texts = next(test.read(rows))
    truth = test.labels[: len(texts), [test.names.index(name) for name in bundle.manifest.labels]]
    return Case("GoEmotions", bundle, other, other.manifest.depth, list(texts), truth, asked=True)


def table_case(path: Path, file: Path, rows: int) -> Case:
    """A bundle of rows of numbers, and a file of such rows with labels; few are compared."""
    bundle = read_bundle(path)
    data = open_dataset(DataOptions(path=file))
    numbers = np.asarray(next(data.read(rows))).round(DIGITS).astype(np.float32)
    names = bundle.manifest.labels
    truth = data.labels[: len(numbers), [data.names.index(name) for name in names]]
    depth = bundle.manifest.depth
    return Case(bundle.manifest.name, bundle, bundle, depth, numbers, truth, ("a", "b", "c"))


def _plain(rows: Sequence[Any] | np.ndarray) -> Any:
    """As JSON has it; rounded again, so that 0.1 does not become 0.10000000149."""
    if isinstance(rows, np.ndarray):
        return rows.astype(np.float64).round(DIGITS).tolist()
    return list(rows)
