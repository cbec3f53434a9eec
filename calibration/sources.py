"""Opens a model that somebody trained, whatever form it comes in."""

from __future__ import annotations

import re
from pathlib import Path

from calibration.source import Source
from models.errors import CalibrationError
from models.preprocessing import TensorSpec

FORMS = (
    "expected one of: an ONNX file (model.onnx), a Hugging Face directory (with config.json and "
    "model.safetensors), or a torch factory (package.module:factory)"
)
ROWS = "rows"  # name of a torch module's input


def open_source(
    model: str,
    labels: int,
    weights: Path | None = None,
    row_shape: tuple[int, ...] | None = None,
    output: str | None = None,
    has_head: bool | None = None,
) -> Source:
    """Open an ONNX file, a Hugging Face directory or a torch factory.

    Parameters
    ----------
    model : a file that ends in .onnx, a directory with config.json, or `package.module:factory`
    labels : L, the labels of the data
    weights : of a torch factory's module
    row_shape : shape of one row of the data, without the batch; a torch factory needs it
    output : name of the tensor that the last exit reads
    has_head : whether that tensor is logits over the labels; None: found out

    Raises
    ------
    CalibrationError
        When `model` has none of the three forms, or an option does not go with its form.
    GraphError
        When the model's graph cannot become one with early exits.
    """
    path = Path(model)
    is_factory = not path.exists() and re.fullmatch(r"[\w.]+:[\w.]+", model) is not None
    if weights is not None and not is_factory:
        raise CalibrationError(
            f"found weights {weights} beside model {model!r}, which holds its own: expected them "
            "only with a torch factory (package.module:factory)"
        )
    if is_factory:
        return _open_factory(model, labels, weights, row_shape, output, has_head)
    if path.suffix == ".onnx":
        from calibration.onnx_source import open_onnx

        return open_onnx(path, labels, output, has_head)
    if not (path / "config.json").is_file():
        raise CalibrationError(f"{_found(path)}; {FORMS}")
    if output is not None:
        raise CalibrationError(
            f"found output {output!r} with a Hugging Face directory, whose output is known: "
            "expected it only with an ONNX file or a torch factory; leave it out"
        )
    from calibration.huggingface_source import open_huggingface

    return open_huggingface(path, labels, has_head)


def _open_factory(
    model: str,
    labels: int,
    weights: Path | None,
    row_shape: tuple[int, ...] | None,
    output: str | None,
    has_head: bool | None,
) -> Source:
    from calibration.torch_source import open_factory

    if row_shape is None:
        raise CalibrationError(
            f"a torch factory ({model}) needs data whose rows are numbers in the shape of the "
            "model's input, found texts or images: export the model to ONNX, or save it as a "
            "Hugging Face directory"
        )
    row = TensorSpec(name=ROWS, row_shape=row_shape)
    return open_factory(model, labels, row, weights, output, has_head)


def _found(path: Path) -> str:
    if path.is_dir():
        return f"the directory {path} has no config.json"
    if path.is_file():
        return f"the file {path} does not end in .onnx"
    return f"found no model {str(path)!r}"
