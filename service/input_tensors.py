"""The ways in which the input tensors of a request hold its rows.

The model's own tensors are always taken: rows of numbers are then preprocessed as in calibration,
token ids and prepared images go to the model as they are. Models of texts and of images also take
one BYTES tensor instead: UTF-8, or image files.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from models.encoding import RawRows
from models.errors import InvalidInput
from models.manifest import Manifest
from models.preprocessing import TensorSpec, TextPreprocessing
from service.prepared_rows import PreparedRows, image_rows, token_rows
from service.tensors import BYTES, Tensor, brief, datatype_of


def raw_input(manifest: Manifest) -> str | None:
    """The name of the BYTES tensor that holds raw rows; None where rows are numbers."""
    kind = manifest.preprocessing.kind
    if kind == "numbers":
        return None
    taken = {spec.name for spec in manifest.inputs}
    return f"{kind}_bytes" if kind in taken else kind


def input_rows(inputs: Sequence[Tensor], manifest: Manifest) -> RawRows | PreparedRows:
    """The rows that the tensors hold, as the dataplane takes them.

    Raises
    ------
    InvalidInput
        When a tensor is missing, unknown, there twice, or of another datatype or shape.
    """
    _check_names(inputs, manifest)
    by_name = {tensor.name: tensor for tensor in inputs}
    raw = raw_input(manifest)
    if raw in by_name:
        return _raw_rows(by_name[raw], manifest)
    arrays = [_own_array(by_name[spec.name], spec) for spec in manifest.inputs]
    if len({len(array) for array in arrays}) > 1:
        found = ", ".join(
            f"{len(array)} in {spec.name!r}"
            for spec, array in zip(manifest.inputs, arrays, strict=True)
        )
        raise InvalidInput(f"inputs: found {found} rows, expected as many in every tensor")
    if isinstance(manifest.preprocessing, TextPreprocessing):
        return token_rows(arrays, manifest.inputs, manifest.preprocessing)
    if manifest.preprocessing.kind == "image":
        return image_rows(arrays[0])
    return arrays[0]


def _check_names(inputs: Sequence[Tensor], manifest: Manifest) -> None:
    names = [tensor.name for tensor in inputs]
    own = {spec.name for spec in manifest.inputs}
    raw = raw_input(manifest)
    expected = ", ".join(repr(spec.name) for spec in manifest.inputs)
    expected += f", or {raw!r} alone" if raw else ""
    for place, name in enumerate(names):
        if name in names[:place]:
            raise InvalidInput(f"inputs: found {brief(name)} twice, expected {expected}")
        if name != raw and name not in own:
            raise InvalidInput(f"inputs: found the unknown {brief(name)}, expected {expected}")
    if set(names) != own and names != [raw]:
        found = ", ".join(repr(name) for name in names) or "none"
        raise InvalidInput(f"inputs: found {found}, expected {expected}")


def _raw_rows(tensor: Tensor, manifest: Manifest) -> RawRows:
    """The elements of a BYTES tensor (b,) or (b, 1)."""
    if tensor.datatype != BYTES or tensor.shape[1:] not in ((), (1,)) or not tensor.shape:
        raise InvalidInput(
            f"input {tensor.name!r}: found {tensor.datatype} of shape {list(tensor.shape)}, "
            "expected BYTES of shape [rows]"
        )
    elements: list[bytes] = tensor.array.ravel().tolist()
    if manifest.preprocessing.kind == "image":
        return elements
    return [_text(tensor.name, row, element) for row, element in enumerate(elements)]


def _text(name: str, row: int, element: bytes) -> str:
    try:
        return element.decode()
    except UnicodeDecodeError as error:
        raise InvalidInput(
            f"input {name!r}: row {row} is no UTF-8 from byte {error.start} on, expected a text"
        ) from None


def _own_array(tensor: Tensor, spec: TensorSpec) -> np.ndarray:
    """One of the model's own tensors, (b, *row_shape)."""
    expected = datatype_of(spec.dtype)
    sizes = tensor.shape[1:]
    fits = len(tensor.shape) == len(spec.row_shape) + 1 and all(
        size == wanted or (wanted is None and size > 0)
        for size, wanted in zip(sizes, spec.row_shape, strict=True)
    )
    if tensor.datatype != expected or not fits:
        shape = ["rows", *("any" if size is None else str(size) for size in spec.row_shape)]
        raise InvalidInput(
            f"input {tensor.name!r}: found {tensor.datatype} of shape {list(tensor.shape)}, "
            f"expected {expected} of shape [{', '.join(shape)}]"
        )
    return tensor.array
