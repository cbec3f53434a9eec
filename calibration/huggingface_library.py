"""The library transformers: imported where it is installed, kept quiet, its masks kept small."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
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
