"""Bodies of inference requests over REST, put together by hand."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from service.oip_json import HEADER_LENGTH
from service.tensors import Tensor, to_raw


def described(tensor: Tensor, **fields: Any) -> dict[str, Any]:
    """An input without its data."""
    return {
        "name": tensor.name,
        "datatype": tensor.datatype,
        "shape": list(tensor.shape),
        **fields,
    }


def in_json(tensor: Tensor, nested: bool = False, **fields: Any) -> dict[str, Any]:
    """An input with its data as JSON."""
    values = (tensor.array if nested else tensor.array.ravel()).tolist()
    texts = [v.decode() if isinstance(v, bytes) else v for v in values]
    return described(tensor, data=texts, **fields)


def in_binary(tensor: Tensor, **fields: Any) -> dict[str, Any]:
    """An input whose data are among the raw bytes behind the document."""
    size = len(to_raw(tensor.array))
    return described(tensor, parameters={"binary_data_size": size}, **fields)


def request_body(
    inputs: Sequence[dict[str, Any]], raw: Sequence[Tensor] = (), **fields: Any
) -> tuple[bytes, dict[str, str]]:
    """Body and headers."""
    document = json.dumps({"inputs": inputs, **fields}).encode()
    content = b"".join(to_raw(tensor.array) for tensor in raw)
    return document + content, {HEADER_LENGTH: str(len(document))} if raw else {}


def numbers(rows: np.ndarray, name: str = "x") -> Tensor:
    """Rows as the one input of a model of numbers."""
    return Tensor(name, np.ascontiguousarray(rows, np.float32))
