"""Rows of numbers with the answers that they must get, in a form that other processes can read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from soak_oracle import TOLERANCE, Oracle, draw_pool
from tritonclient.grpc import service_pb2

from models.bundle import Bundle

JSON = {"content-type": "application/json"}


@dataclass(frozen=True)
class CheckedRows:
    """n rows of numbers and what the service must answer to them.

    model, tensor : names of the model and of its input
    names : of the labels
    rows : float32 (n, *row_shape)
    exits : int (n,)
    labels : bool (n, L)
    probabilities : float32 (n, L)
    """

    model: str
    tensor: str
    names: tuple[str, ...]
    rows: np.ndarray
    exits: np.ndarray
    labels: np.ndarray
    probabilities: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    def predict_body(self, places: Sequence[int], **fields: object) -> bytes:
        """For `POST /predict`: some of the rows."""
        return json.dumps({"rows": self.rows[list(places)].tolist(), **fields}).encode()

    def infer_request(self, places: Sequence[int]) -> Any:
        """For `ModelInfer`: some of the rows."""
        rows = self.rows[list(places)]
        request = service_pb2.ModelInferRequest(
            model_name=self.model, raw_input_contents=[rows.tobytes()]
        )
        request.inputs.add(name=self.tensor, datatype="FP32", shape=rows.shape)
        return request

    def is_prediction(self, places: Sequence[int], answer: Any) -> bool:
        """Whether a document of `/predict` is the answer to these rows."""
        rows = answer["rows"]
        names = np.array(self.names)
        return len(rows) == len(places) and self._agree(
            places,
            [row["exit"] for row in rows],
            np.array([np.isin(names, [label["name"] for label in row["labels"]]) for row in rows]),
            np.array([[row["probabilities"][name] for name in self.names] for row in rows]),
        )

    def is_inference(self, places: Sequence[int], answer: Any) -> bool:
        """Whether a `ModelInferResponse` is the answer to these rows."""
        raw = dict(zip([o.name for o in answer.outputs], answer.raw_output_contents, strict=True))
        shape = (-1, len(self.names))
        return self._agree(
            places,
            np.frombuffer(raw["exit"], np.int32),
            np.frombuffer(raw["labels"], np.bool_).reshape(shape),
            np.frombuffer(raw["probabilities"], np.float32).reshape(shape),
        )

    def _agree(
        self, places: Sequence[int], exits: Any, labels: np.ndarray, probabilities: np.ndarray
    ) -> bool:
        mine = list(places)
        return (
            np.array_equal(exits, self.exits[mine])
            and np.array_equal(labels, self.labels[mine])
            and bool(np.abs(probabilities - self.probabilities[mine]).max() <= TOLERANCE)
        )

    def save(self, path: Path) -> None:
        """Write them for another process."""
        arrays = {name: np.asarray(value) for name, value in vars(self).items()}
        np.savez(path, **arrays)

    @classmethod
    def load(cls, path: Path) -> CheckedRows:
        """Read what `save` wrote."""
        with np.load(path) as file:
            found = dict(file)
        texts = {"model": str(found.pop("model")), "tensor": str(found.pop("tensor"))}
        return cls(**texts, names=tuple(found.pop("names").tolist()), **found)


def checked_rows(bundle: Bundle, count: int, seed: int = 0) -> CheckedRows:
    """Rows whose exits do not hang on rounding and of which none loses anything by leaving early.

    The monitor has no cause to fall back because of them.

    Parameters
    ----------
    count : that are drawn before others are left out

    Raises
    ------
    SystemExit
        When the bundle reads something else than numbers.
    """
    kind = bundle.manifest.preprocessing.kind
    if kind != "numbers":
        raise SystemExit(f"{bundle.path} reads rows of the kind {kind}, expected numbers")
    rows, (oracle,) = draw_pool([bundle], count, seed, calm=True)
    return checked_by(oracle, np.asarray(rows))


def at_full_depth(bundle: Bundle, rows: CheckedRows) -> CheckedRows:
    """The same rows with the answers of the last exit."""
    return checked_by(Oracle(bundle, rows.rows), rows.rows, "full")


def checked_by(oracle: Oracle, rows: np.ndarray, policy: str = "certified") -> CheckedRows:
    """An oracle's rows with their answers by one of its policies."""
    manifest, exits = oracle.manifest, oracle.exits_of(policy, None)
    answers = oracle.answers_at(exits, np.arange(len(rows)))
    return CheckedRows(
        manifest.name,
        manifest.inputs[0].name,
        manifest.labels,
        rows,
        exits,
        answers.labels,
        answers.probabilities,
    )
