"""The encoder of texts: tokenized, truncated and padded to length buckets."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import chain

import numpy as np
from tokenizers import Encoding, Tokenizer

from models.encoding import Encoded, Group, RawRows
from models.errors import BundleError, InvalidInput
from models.preprocessing import TOKENIZER, TensorSpec, TextPreprocessing

TENSORS = ("input_ids", "attention_mask", "token_type_ids")
CHARACTERS_PER_TOKEN = 64


def bucket_length(tokens: int, max_tokens: int) -> int:
    """Tokens that a row is padded to, so that rows of about its length share a batch.

    The next multiple of 8 up to 64 tokens, of 16 up to 256, of 64 beyond; never more than
    `max_tokens`, for a model may have no positions beyond it.

    Example: `bucket_length(9, 512)` is 16, `bucket_length(65, 512)` 80, `bucket_length(49, 50)` 50.
    """
    step = 8 if tokens <= 64 else 16 if tokens <= 256 else 64
    return min(-(-tokens // step) * step, max_tokens)


class TextEncoder:
    """Turns texts into token tensors (b, tokens); one group per length bucket.

    The padding and truncation written in `tokenizer.json` are replaced by those of the
    preprocessing. At most the first 64 * max_tokens characters of a text are read: more would only
    cost time, as even long words are a few characters per token.

    Tokenizing runs in the calling thread unless TOKENIZERS_PARALLELISM asks for more: the library
    would start as many threads as there are cores, beside the lanes, and they do not survive a
    fork.

    Parameters
    ----------
    preprocessing : the most tokens, and what to pad with
    inputs : any of `input_ids`, `attention_mask`, `token_type_ids`; where the number of tokens is
        fixed in their shape, every row is padded to exactly that
    tokenizer : the content of `tokenizer.json`

    Raises
    ------
    BundleError
        When the tokenizer cannot be read or the inputs are not those of a text model.
    """

    def __init__(
        self, preprocessing: TextPreprocessing, inputs: Sequence[TensorSpec], tokenizer: bytes
    ) -> None:
        for spec in inputs:
            _check_input(spec)
        if "input_ids" not in {spec.name for spec in inputs}:
            raise BundleError(
                f"a model of texts needs the input 'input_ids', found "
                f"{[spec.name for spec in inputs]}: rename its inputs at export"
            )
        self._inputs = [(spec.name, np.dtype(spec.dtype)) for spec in inputs]
        self._fixed = _fixed_tokens(inputs, preprocessing.max_tokens)
        self._preprocessing = preprocessing
        self._tokenizer = _open_tokenizer(tokenizer, preprocessing.max_tokens)
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

    def encode(self, rows: RawRows) -> Encoded:
        """Tokenize texts; an empty one is only its special tokens."""
        texts: dict[int, str] = {}
        bad: dict[int, str] = {}
        limit = self._preprocessing.max_tokens * CHARACTERS_PER_TOKEN
        for place, row in enumerate(rows):
            try:
                texts[place] = _checked_text(row, limit)
            except InvalidInput as fault:
                bad[place] = str(fault)
        return self._grouped(self._tokenized(texts, bad), bad)

    def _tokenized(self, texts: dict[int, str], bad: dict[int, str]) -> dict[int, Encoding]:
        """Tokens by place; texts that the tokenizer refuses, or makes nothing of, become bad."""
        encodings: Sequence[Encoding | str]
        try:
            encodings = self._tokenizer.encode_batch_fast(list(texts.values()))
        except Exception:  # it has no narrower type; one text fails them all, so find which
            encodings = [self._tokenized_alone(text) for text in texts.values()]
        found = {}
        for place, encoding in zip(texts, encodings, strict=True):
            if isinstance(encoding, str):
                bad[place] = encoding
            elif not len(encoding):
                bad[place] = "found a text without a token; expected at least one"
            else:
                found[place] = encoding
        return found

    def _tokenized_alone(self, text: str) -> Encoding | str:
        try:
            return self._tokenizer.encode_batch_fast([text])[0]
        except Exception as error:
            return f"found a text that {TOKENIZER} cannot encode ({error}); expected its alphabet"

    def _grouped(self, encodings: dict[int, Encoding], bad: dict[int, str]) -> Encoded:
        buckets = defaultdict(list)
        for place, encoding in encodings.items():
            length = bucket_length(len(encoding), self._preprocessing.max_tokens)
            buckets[self._fixed or length].append(place)
        groups = []
        for length, places in sorted(buckets.items()):
            tensors = self._tensors([encodings[place] for place in places], length)
            groups.append(Group(np.array(places), tensors))
        return Encoded(groups, bad)

    def _tensors(self, encodings: list[Encoding], length: int) -> tuple[np.ndarray, ...]:
        """The model's inputs, in their order, each (b, length)."""
        lengths = np.array([len(encoding) for encoding in encodings])
        real = np.arange(length) < lengths[:, None]  # (b, length)
        tensors = []
        for name, dtype in self._inputs:
            if name == "attention_mask":
                tensors.append(real.astype(dtype))
            elif name == "input_ids":
                ids = (encoding.ids for encoding in encodings)
                tensors.append(_padded(ids, real, self._preprocessing.pad_id, dtype))
            else:
                types = (encoding.type_ids for encoding in encodings)
                tensors.append(_padded(types, real, self._preprocessing.pad_type_id, dtype))
        return tuple(tensors)


def _padded(
    values: Iterable[list[int]], real: np.ndarray, padding: int, dtype: np.dtype
) -> np.ndarray:
    """Lists of several lengths side by side: (b, length), `padding` where not `real`."""
    padded = np.full(real.shape, padding, dtype)
    padded[real] = np.fromiter(chain.from_iterable(values), dtype)
    return padded


def _checked_text(row: object, limit: int) -> str:
    """The first `limit` characters; InvalidInput where they are no text."""
    if not isinstance(row, str):
        raise InvalidInput(f"found a {type(row).__name__}; expected a text")
    text = row[:limit]
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidInput(
            f"found half of a surrogate pair (U+{ord(text[error.start]):04X}) at character "
            f"{error.start}; expected well-formed Unicode"
        ) from error
    return text


def _check_input(spec: TensorSpec) -> None:
    if spec.name not in TENSORS:
        raise BundleError(
            f"input {spec.name!r} cannot be made from a text: expected any of {', '.join(TENSORS)}"
        )
    if len(spec.row_shape) != 1:
        raise BundleError(
            f"a row of input {spec.name!r} has shape {spec.row_shape}: expected one dimension, "
            "the tokens"
        )
    if spec.name != "attention_mask" and not spec.dtype.startswith("int"):
        raise BundleError(f"input {spec.name!r} takes {spec.dtype}: expected int64 or int32")


def _fixed_tokens(inputs: Sequence[TensorSpec], max_tokens: int) -> int | None:
    """The number of tokens that the inputs' shapes demand, or None; BundleError if they differ."""
    lengths = {spec.row_shape[0] for spec in inputs} - {None}
    if not lengths:
        return None
    shortest = min(length for length in lengths if length is not None)
    if len(lengths) > 1 or max_tokens > shortest:
        raise BundleError(
            f"the inputs take exactly {sorted(map(str, lengths))} tokens and max_tokens is "
            f"{max_tokens}: expected one length, and max_tokens of at most it"
        )
    return shortest


def _open_tokenizer(content: bytes, max_tokens: int) -> Tokenizer:
    try:
        tokenizer = Tokenizer.from_buffer(content)
    except Exception as error:  # the library raises no narrower type
        raise BundleError(
            f"{TOKENIZER} cannot be read ({error}): expected the file of a fast tokenizer, as "
            "`tokenizer.save` writes it"
        ) from error
    special = tokenizer.num_special_tokens_to_add(False)
    if special >= max_tokens:
        raise BundleError(
            f"{TOKENIZER} adds {special} special tokens to every text, but max_tokens is "
            f"{max_tokens}: expected at least {special + 1}"
        )
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_tokens, stride=0, strategy="longest_first", direction="right")
    return tokenizer
