"""An ONNX file becomes a source: read, external data put inside, checked."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING

from calibration.graph_source import source_from_graph
from calibration.source import Source
from models.errors import CalibrationError, GraphError

if TYPE_CHECKING:
    import onnx

OLDEST_OPSET = 11
MAX_BYTES = 2**31 - 1  # of one protobuf message; the bundle keeps the weights inside


def open_onnx(
    path: Path, labels: int, output: str | None = None, has_head: bool | None = None
) -> Source:
    """Open an ONNX file as a source.

    Parameters
    ----------
    path : the file; external data is read from its folder only
    labels : L, the labels of the data
    output : the tensor that the last exit reads, see `calibration.graph_output.choose_output`
    has_head : whether that tensor is logits over the labels; None: found out from its shape

    Raises
    ------
    CalibrationError
        When there is no such file.
    GraphError
        When it is no valid ONNX model of opset 11 or newer, its external data lies elsewhere, or
        its inputs or outputs are not what an early-exit model needs.
    """
    model = _read(path)
    opset = _checked_opset(model, path)
    _load_external_data(model, path)
    _check_model(model, path)
    facts = {
        "format": "onnx",
        "file": path.name,
        "opset": opset,
        "producer": f"{model.producer_name} {model.producer_version}".strip(),
    }
    return source_from_graph(model, labels, output, has_head, facts)


def _read(path: Path) -> onnx.ModelProto:
    import onnx
    from google.protobuf.message import DecodeError

    if not path.is_file():
        raise CalibrationError(f"{path}: found no such file, expected an ONNX model")
    try:
        return onnx.load(path, load_external_data=False)
    except DecodeError:
        raise GraphError(
            f"{path} is not an ONNX model, or was cut short: expected a file as written by "
            "torch.onnx.export or onnx.save"
        ) from None


def _checked_opset(model: onnx.ModelProto, path: Path) -> int:
    versions = [entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")]
    if not versions:
        raise GraphError(
            f"{path} imports no opset of the default ONNX domain, expected {OLDEST_OPSET} or newer:"
            " export the model again"
        )
    if versions[0] < OLDEST_OPSET:
        raise GraphError(
            f"{path} has opset {versions[0]}, expected {OLDEST_OPSET} or newer: export it again "
            "with opset_version=18, or upgrade it with onnx.save(onnx.version_converter."
            f"convert_version(onnx.load({path.name!r}), 18), 'upgraded.onnx')"
        )
    return int(versions[0])


def _check_model(model: onnx.ModelProto, path: Path) -> None:
    from onnx import checker

    try:
        checker.check_model(model)
    except checker.ValidationError as error:
        raise GraphError(
            f"{path} is not a valid ONNX model: {_one_sentence(error)}; export it again"
        ) from None


def _one_sentence(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(line for line in lines if not line.startswith("==> Context"))[:300].rstrip(". ")


def _load_external_data(model: onnx.ModelProto, path: Path) -> None:
    """Put the data of every tensor inside the model."""
    from onnx.external_data_helper import uses_external_data

    outside = [tensor for tensor in _tensors(model) if uses_external_data(tensor)]
    size = model.ByteSize() + sum(_expected_bytes(tensor) for tensor in outside)
    if size > MAX_BYTES:
        raise GraphError(
            f"{path} has {size / 2**30:.1f} GiB of weights, expected less than 2 GiB: a bundle "
            "keeps them inside one ONNX file; convert the model to float16"
        )
    for tensor in outside:
        entries = {entry.key: entry.value for entry in tensor.external_data}
        file = _checked_location(tensor.name, entries.get("location", ""), path)
        tensor.raw_data = _read_part(tensor, file, entries)
        tensor.data_location = tensor.DEFAULT
        del tensor.external_data[:]


def _checked_location(tensor: str, location: str, path: Path) -> Path:
    """The file that a tensor names, refused outside the model's own folder."""
    pure = (PurePosixPath(location), PureWindowsPath(location))
    way_on = f"expected a file inside {path.parent}: put the data there, or save the model again"
    if not location or any(p.is_absolute() or p.drive or ".." in p.parts for p in pure):
        raise GraphError(
            f"{path}: tensor {tensor!r} keeps its data in {location!r}, outside the model's "
            f"folder; {way_on}"
        )
    folder = path.parent.resolve()
    file = (folder / location).resolve()
    if not file.is_relative_to(folder):
        raise GraphError(
            f"{path}: tensor {tensor!r} keeps its data in {location!r}, a link to {file}, outside "
            f"the model's folder; {way_on}"
        )
    if not file.is_file():
        raise GraphError(
            f"{path}: tensor {tensor!r} keeps its data in {location!r}, which is missing; {way_on}"
        )
    return file


def _read_part(tensor: onnx.TensorProto, file: Path, entries: dict[str, str]) -> bytes:
    expected = _expected_bytes(tensor)
    offset, length = entries.get("offset") or "0", entries.get("length") or str(expected)
    data = b""
    if offset.isdecimal() and length == str(expected):
        with file.open("rb") as stream:
            stream.seek(int(offset))
            data = stream.read(expected)
    if len(data) != expected:
        raise GraphError(
            f"tensor {tensor.name!r}: found {len(data)} bytes at offset {offset} (length {length}) "
            f"of {file}, expected {expected}: the data file does not belong to this model, or was "
            "cut short; save the model again"
        )
    return data


def _expected_bytes(tensor: onnx.TensorProto) -> int:
    from math import prod

    from onnx import TensorProto, helper

    bits = 8 * int(helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)
    if tensor.data_type in (TensorProto.INT4, TensorProto.UINT4, TensorProto.FLOAT4E2M1):
        bits = 4
    return int(prod(tensor.dims) * bits + 7) // 8


def _tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    yield from _graph_tensors(model.graph)
    for function in model.functions:
        yield from _node_tensors(function.node)


def _graph_tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    yield from _node_tensors(graph.node)


def _node_tensors(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.TensorProto]:
    for node in nodes:
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            for graph in (attribute.g, *attribute.graphs):
                yield from _graph_tensors(graph)
