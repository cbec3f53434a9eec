"""The library transformers: imported where it is installed, kept quiet, its masks kept small."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models.errors import CalibrationError

if TYPE_CHECKING:
    from torch import Tensor


def import_library() -> Any:
    """Import transformers.

    Raises
    ------
    CalibrationError
        When it is not installed.
    """
    try:
        return import_module("transformers")
    except ImportError:
        raise CalibrationError(
            "a Hugging Face directory needs the library transformers, which is not installed: "
            "pip install 'offramp[transformers]'"
        ) from None


@contextmanager
def quiet(transformers: Any) -> Iterator[None]:
    """Without the library's progress bars and reports on the terminal."""
    logging = transformers.utils.logging
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def load_model(transformers: Any, loader: str, directory: Path, **options: Any) -> Any:
    """Load a model, float32, by one of the library's loaders such as `AutoModel`.

    Nothing is downloaded, no code beside the model is run, and no pickle is read.

    Raises
    ------
    CalibrationError
        When it cannot be loaded, or weights are missing that its outputs depend on.
    """
    import torch

    try:
        model, report = getattr(transformers, loader).from_pretrained(
            directory,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            dtype=torch.float32,
            output_loading_info=True,
            **options,
        )
    except Exception as error:  # transformers raises OSError, ValueError, KeyError and others
        raise cannot_load(directory, error) from error
    pooler = "pooler." if loader == "AutoModel" else "\n"  # not part of the last hidden state
    missing = sorted(key for key in report["missing_keys"] if not key.startswith(pooler))
    if missing:
        raise CalibrationError(
            f"the weights in {directory} lack {len(missing)} tensors of {type(model).__name__}, "
            f"e.g. {', '.join(missing[:5])}: expected a model that was trained whole; transformers "
            "would fill them with random numbers"
        )
    return model


def cannot_load(directory: Path, error: Exception) -> CalibrationError:
    """The error for a directory that the library refuses, with the first line of its reason."""
    reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
    return CalibrationError(
        f"{directory} cannot be loaded by transformers: {reason[:300].rstrip('. ')}; expected an "
        "architecture of the library itself (code that comes with a model is never run): export "
        "others to ONNX or give them as module:factory"
    )


@contextmanager
def broadcast_masks() -> Iterator[None]:
    """Plain attention gets masks (batch, 1, 1, tokens), or none where nothing is masked.

    The library's own, (batch, 1, tokens, tokens), is gathered token by token; and where a model has
    no mask it is expanded to the batch all the same, which ties every layer to the graph's input.
    """
    import torch

    masking: Any = import_module("transformers.masking_utils")

    def mask(*args: Any, **given: Any) -> Tensor | None:
        bidirectional = given.get("mask_function") is masking.bidirectional_mask_function
        if args or not bidirectional or not given.get("allow_is_bidirectional_skip"):
            own: Tensor | None = masking.eager_mask(*args, **given)
            return own
        kept = given["attention_mask"]  # bool (batch, tokens)
        if kept is None:
            return None
        lowest = torch.finfo(given["dtype"]).min
        return torch.where(kept[:, None, None, :], 0.0, lowest).to(given["dtype"])

    masking.ALL_MASK_ATTENTION_FUNCTIONS["eager"] = mask
    try:
        yield
    finally:
        del masking.ALL_MASK_ATTENTION_FUNCTIONS["eager"]
