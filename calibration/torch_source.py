"""A torch module, made by a factory function, becomes a source."""

from __future__ import annotations

import importlib
import os
import pickle
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calibration.graph_source import source_from_graph
from calibration.source import Source
from models.errors import CalibrationError
from models.preprocessing import TensorSpec

if TYPE_CHECKING:
    from torch import Tensor, nn

NAMED_KEYS = 5
OWN_PACKAGES = {"calibration", "models", "service"}
PARALLEL_PREFIX = "module."  # of torch.nn.DataParallel
EXAMPLE_ROWS = 2  # the exporter takes sizes of 0 and 1 for constants
VARYING_SIZE = 16  # of the example, where the rows' size varies


def open_factory(
    reference: str,
    labels: int,
    row: TensorSpec,
    weights: Path | None = None,
    output: str | None = None,
    has_head: bool | None = None,
) -> Source:
    """Open `package.module:factory` as a source; the working directory is importable.

    Parameters
    ----------
    reference : a function, or a module class, that is called without arguments
    labels : L, the labels of the data
    row : the module's one input: name, type, shape of one row
    weights : `.safetensors`, or what torch.save(module.state_dict()) wrote; None: the factory's own
    output, has_head : see `calibration.graph_output.choose_output`

    Raises
    ------
    CalibrationError
        When the factory or the weights cannot be used.
    GraphError
        When the module cannot be exported, or its output does not fit the data.
    """
    import torch

    from calibration.torch_export import export_module

    module = _make_module(reference)
    if weights is not None:
        _load_weights(module, weights)
    module = module.cpu().float()
    axes = {0: "batch"}
    axes |= {i: f"size{i}" for i, size in enumerate(row.row_shape, start=1) if size is None}
    model = export_module(module, {row.name: _example(row)}, {row.name: axes}, "output")
    facts = {
        "format": "torch",
        "factory": reference,
        "weights": None if weights is None else weights.name,
        "torch": torch.__version__,
    }
    return source_from_graph(model, labels, output, has_head, facts)


def _make_module(reference: str) -> nn.Module:
    import torch

    factory = _find_factory(reference)
    try:
        with _working_directory_importable():
            module = factory()
    except Exception as error:  # the user's own code
        raise CalibrationError(
            f"{reference}() raised {type(error).__name__}: {error}; expected a factory that takes "
            "no arguments and returns the module"
        ) from error
    if not isinstance(module, torch.nn.Module):
        raise CalibrationError(
            f"{reference}() returned {type(module).__name__}, expected a torch.nn.Module"
        )
    return module


def _find_factory(reference: str) -> Callable[[], object]:
    module_name, _, factory_name = reference.partition(":")
    if not module_name or not factory_name:
        raise CalibrationError(
            f"found model {reference!r}, expected package.module:factory, e.g. nets.tagger:build"
        )
    try:
        with _working_directory_importable():
            found: Any = importlib.import_module(module_name)
    except Exception as error:  # the user's own code
        raise CalibrationError(
            f"cannot import {module_name!r} ({type(error).__name__}: {error}); expected a module "
            f"that Python finds from {os.getcwd()}: {_way_on(module_name)}"
        ) from error
    for part in factory_name.split("."):
        found = getattr(found, part, None)
    if not callable(found):
        raise CalibrationError(
            f"module {module_name!r} has no function {factory_name!r}, expected one that takes no "
            f"arguments and returns a torch.nn.Module: {_way_on(module_name)}"
        )
    return found  # type: ignore[no-any-return]


def _way_on(module_name: str) -> str:
    if module_name.partition(".")[0] in OWN_PACKAGES:
        return "offramp has a package of that name itself; rename yours"
    return "run from the folder that holds it"


@contextmanager
def _working_directory_importable() -> Iterator[None]:
    folder = os.getcwd()
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)


def _load_weights(module: nn.Module, path: Path) -> None:
    state = _read_weights(path)
    own = module.state_dict()
    if all(key.startswith(PARALLEL_PREFIX) for key in state) and not any(
        key.startswith(PARALLEL_PREFIX) for key in own
    ):
        state = {key.removeprefix(PARALLEL_PREFIX): value for key, value in state.items()}
    shapes = [
        f"{key} is {tuple(state[key].shape)} instead of {tuple(own[key].shape)}"
        for key in own.keys() & state.keys()
        if state[key].shape != own[key].shape
    ]
    faults = [
        *_listed("missing", sorted(own.keys() - state.keys())),
        *_listed("unexpected", sorted(state.keys() - own.keys())),
        *_listed("of another shape", sorted(shapes)),
    ]
    if faults:
        raise CalibrationError(
            f"the weights in {path} do not fit the module: {'; '.join(faults)}. Expected exactly "
            "the tensors of module.state_dict(): give the weights of this architecture"
        )
    module.load_state_dict(state)


def _listed(what: str, keys: list[str]) -> list[str]:
    more = f" and {len(keys) - NAMED_KEYS} more" if len(keys) > NAMED_KEYS else ""
    return [f"{what}: {', '.join(keys[:NAMED_KEYS])}{more}"] if keys else []


def _read_weights(path: Path) -> dict[str, Tensor]:
    import torch

    if not path.is_file():
        raise CalibrationError(f"{path}: found no such file, expected the module's weights")
    save = "save the weights alone with safetensors.torch.save_file(module.state_dict(), path)"
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            found: object = load_file(path)
        else:
            found = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CalibrationError(
            f"{path} holds more than tensors: loading it would run code from the file, which is "
            f"refused; {save}"
        ) from error
    except Exception as error:  # each format has its own errors
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise CalibrationError(f"{path} cannot be read as weights ({reason}); {save}") from error
    if isinstance(found, Mapping) and isinstance(found.get("state_dict"), Mapping):
        found = found["state_dict"]
    if not isinstance(found, Mapping) or not _only_tensors(found):
        raise CalibrationError(
            f"{path} holds no mapping of names to tensors, expected module.state_dict(); {save}"
        )
    return dict(found)


def _only_tensors(state: Mapping[Any, object]) -> bool:
    import torch

    return bool(state) and all(isinstance(value, torch.Tensor) for value in state.values())


def _example(row: TensorSpec) -> Tensor:
    """Two rows of ones or, where they are floats, of noise from a fixed seed."""
    import torch

    shape = (EXAMPLE_ROWS, *(VARYING_SIZE if size is None else size for size in row.row_shape))
    dtype = getattr(torch, row.dtype)
    if not dtype.is_floating_point:
        return torch.ones(shape, dtype=dtype)
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
