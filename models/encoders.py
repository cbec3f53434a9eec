"""Opens the encoder that a bundle's preprocessing asks for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from models.encoding import Encoded, Encoder, Group
from models.errors import BundleError, InvalidInput
from models.preprocessing import (
    TOKENIZER,
    ImagePreprocessing,
    NumberPreprocessing,
    Preprocessing,
    TensorSpec,
)


def open_encoder(
    preprocessing: Preprocessing, inputs: Sequence[TensorSpec], files: Mapping[str, bytes]
) -> Encoder:
    """Make the encoder of a model; what it needs is loaded here, not at the first row.

    Parameters
    ----------
    preprocessing : as recorded in the manifest
    inputs : the model's input tensors, in their order
    files : the bundle's files by name; `tokenizer.json` where rows are texts

    Raises
    ------
    BundleError
        When preprocessing, inputs and files do not fit each other.
    """
    # imported here: a service of numbers loads neither Pillow nor tokenizers
    if isinstance(preprocessing, NumberPreprocessing):
        from models.number_encoder import NumberEncoder

        return NumberEncoder(preprocessing, inputs)
    if isinstance(preprocessing, ImagePreprocessing):
        from models.image_encoder import ImageEncoder

        return ImageEncoder(preprocessing, inputs)
    from models.text_encoder import TextEncoder

    if TOKENIZER not in files:
        raise BundleError(
            f"preprocessing of texts needs {TOKENIZER}, found {sorted(files) or 'no files'}: "
            "calibrate again with the tokenizer beside the model"
        )
    return TextEncoder(preprocessing, inputs, files[TOKENIZER])


def refuse_bad(encoded: Encoded, field: str = "rows") -> list[Group]:
    """Give the groups of rows that are all good.

    Parameters
    ----------
    encoded : what the encoder gave
    field : the name under which the client sent the rows

    Raises
    ------
    InvalidInput
        Names the first bad row, what was found there, and how many more are bad.
    """
    if not encoded.bad:
        return encoded.groups
    row = min(encoded.bad)
    others = len(encoded.bad) - 1
    more = f" ({others} more bad {'rows' if others > 1 else 'row'})" if others else ""
    raise InvalidInput(f"{field}[{row}]: {encoded.bad[row]}{more}")
