"""Rows that come as the model's own tensors: checked, and grouped by shape as an encoder would."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from models.encoding import MASK, Group
from models.errors import InvalidInput
from models.preprocessing import TensorSpec, TextPreprocessing


@dataclass(frozen=True)
class PreparedRows:
    """Rows that need no encoder.

    groups : by shape; together they hold every row of the request once
    """

    groups: list[Group]

    def __len__(self) -> int:
        return sum(len(group.rows) for group in self.groups)


def image_rows(images: np.ndarray) -> PreparedRows:
    """Images that are decoded, resized and normalised: float (b, C, H, W).

    Raises
    ------
    InvalidInput
        When a value is not finite.
    """
    finite = np.isfinite(images).all(axis=tuple(range(1, images.ndim)))
    if not finite.all():
        row = int(np.argmin(finite))
        raise InvalidInput(f"rows[{row}]: found a value that is not finite; expected numbers")
    return PreparedRows([Group(np.arange(len(images)), (np.ascontiguousarray(images),))])


def token_rows(
    arrays: Sequence[np.ndarray], inputs: Sequence[TensorSpec], preprocessing: TextPreprocessing
) -> PreparedRows:
    """Tokenized texts, padded as the encoder pads them, so that they meet its rows in batches.

    Rows that are padded at their end are cut to their own length first. Without a mask nobody can
    tell padding from tokens: such rows stay as they are.

    Parameters
    ----------
    arrays : one (b, tokens) per input of the model
    inputs : their names

    Raises
    ------
    InvalidInput
        When the tensors differ in their tokens, have too many, or a row attends to none.
    """
    # imported here: a service of numbers does not load tokenizers
    from models.text_encoder import bucket_length

    tokens = _checked_tokens(arrays, inputs, preprocessing.max_tokens)
    masks = [a for a, spec in zip(arrays, inputs, strict=True) if spec.name == MASK]
    fixed = any(spec.row_shape[0] is not None for spec in inputs)
    if not masks or not len(masks[0]):
        return PreparedRows([Group(np.arange(len(arrays[0])), tuple(arrays))])
    lengths = _lengths(masks[0] != 0)
    if fixed:
        return PreparedRows([Group(np.arange(len(lengths)), tuple(arrays))])
    padded = np.array([bucket_length(int(length), preprocessing.max_tokens) for length in lengths])
    groups = []
    for bucket in np.unique(padded).tolist():
        rows = np.flatnonzero(padded == bucket)
        tensors = [
            _resized(array[rows, : min(tokens, bucket)], bucket, _padding(spec.name, preprocessing))
            for array, spec in zip(arrays, inputs, strict=True)
        ]
        groups.append(Group(rows, tuple(tensors)))
    return PreparedRows(groups)


def _checked_tokens(
    arrays: Sequence[np.ndarray], inputs: Sequence[TensorSpec], max_tokens: int
) -> int:
    found = {spec.name: array.shape[1] for spec, array in zip(inputs, arrays, strict=True)}
    if len(set(found.values())) > 1:
        words = ", ".join(f"{tokens} in {name!r}" for name, tokens in found.items())
        raise InvalidInput(f"inputs: found {words} tokens, expected as many in every tensor")
    tokens = int(arrays[0].shape[1])
    if tokens > max_tokens and None in {spec.row_shape[0] for spec in inputs}:
        raise InvalidInput(
            f"inputs: found {tokens} tokens, expected at most {max_tokens}; truncate the texts"
        )
    return tokens


def _lengths(attended: np.ndarray) -> np.ndarray:
    """Tokens of each row up to the last that is attended to: bool (b, tokens) -> int (b,)."""
    some = attended.any(axis=1)
    if not some.all():
        row = int(np.argmin(some))
        raise InvalidInput(f"rows[{row}]: found no token that {MASK!r} attends to, expected one")
    return np.asarray(attended.shape[1] - attended[:, ::-1].argmax(axis=1))


def _padding(name: str, preprocessing: TextPreprocessing) -> int:
    if name == "input_ids":
        return preprocessing.pad_id
    return preprocessing.pad_type_id if name == "token_type_ids" else 0


def _resized(array: np.ndarray, tokens: int, padding: int) -> np.ndarray:
    """(b, t) -> (b, tokens), padded at the end."""
    missing = tokens - array.shape[1]
    return np.pad(array, ((0, 0), (0, missing)), constant_values=padding) if missing else array
