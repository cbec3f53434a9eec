"""What a server and its models say of themselves, in no protocol's own form."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from models.manifest import Manifest
from service.input_tensors import raw_input
from service.output_tensors import OUTPUTS, PER_LABEL
from service.tensors import BYTES, datatype_of

SERVER_NAME = "offramp"
PLATFORM = "offramp"
"""Of every model: what runs it."""
EXTENSIONS = (
    "binary_tensor_data",
    "model_configuration",
    "model_repository",
    "parameters",
    "schedule_policy",
    "statistics",
)
"""Those of Triton's that are served, by its names for them."""
ANY = -1


@dataclass(frozen=True)
class TensorInfo:
    """One input or output tensor.

    shape : with the rows as dimension 0; -1 for any
    optional : whether a request may do without it
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    optional: bool


def input_specs(manifest: Manifest) -> list[TensorInfo]:
    """The model's own tensors, then the BYTES tensor that may stand for all of them.

    Where there is such a tensor, each of both kinds is optional: one kind is enough.
    """
    raw = raw_input(manifest)
    own = [
        TensorInfo(
            spec.name,
            datatype_of(spec.dtype),
            (ANY, *(ANY if size is None else size for size in spec.row_shape)),
            optional=raw is not None,
        )
        for spec in manifest.inputs
    ]
    return [*own, TensorInfo(raw, BYTES, (ANY,), optional=True)] if raw else own


def output_specs(manifest: Manifest) -> list[TensorInfo]:
    """The output tensors; a request may ask for any of them."""
    labels = len(manifest.labels)
    return [
        TensorInfo(
            name,
            datatype_of(dtype.str),
            (ANY, labels) if name in PER_LABEL else (ANY,),
            optional=True,
        )
        for name, dtype in OUTPUTS.items()
    ]


def server_version() -> str:
    """Of this package; `source` where it runs without being installed, as in an image."""
    try:
        return version("offramp")
    except PackageNotFoundError:
        return "source"
