from __future__ import annotations

import string
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from models.encoding import Encoded
from models.preprocessing import TensorSpec, TextPreprocessing
from models.text_encoder import TENSORS, TextEncoder, bucket_length

ROOT = Path(__file__).parents[2]
PAD, UNKNOWN, CLS, SEP = range(4)
LETTERS = [*string.ascii_lowercase, *(f"##{letter}" for letter in string.ascii_lowercase)]


def bert_tokenizer(padding: bool = True) -> bytes:
    """Letters as tokens, [CLS] and [SEP] around them; with settings that must not be trusted."""
    vocabulary = {word: n for n, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *LETTERS])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", SEP), ("[CLS]", CLS))
    if padding:
        tokenizer.enable_padding(length=100, pad_id=77)
        tokenizer.enable_truncation(3, direction="left")
    return tokenizer.to_str().encode()


def word_tokenizer(unknown: bool) -> bytes:
    """Whole words, no special tokens; words out of the vocabulary are refused or `?`."""
    vocabulary = {"one": 0, "two": 1, "?": 2}
    model = models.WordLevel(vocabulary, unk_token="?" if unknown else "missing")
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return tokenizer.to_str().encode()


def encoder(
    max_tokens: int = 64,
    tokenizer: bytes | None = None,
    names: tuple[str, ...] = TENSORS,
    tokens: int | None = None,
    dtype: Any = "int64",
    **padding: int,
) -> TextEncoder:
    inputs = [TensorSpec(name=name, dtype=dtype, row_shape=(tokens,)) for name in names]
    preprocessing = TextPreprocessing(max_tokens=max_tokens, **padding)
    return TextEncoder(preprocessing, inputs, tokenizer or bert_tokenizer())


def rows_of(encoded: Encoded, tensor: int = 0) -> dict[int, list[int]]:
    return {
        int(row): values.tolist()
        for group in encoded.groups
        for row, values in zip(group.rows, group.tensors[tensor], strict=True)
    }


@given(st.integers(1, 2000), st.integers(1, 2000))
def test_buckets_hold_their_rows_within_the_limit(tokens: int, max_tokens: int) -> None:
    tokens = min(tokens, max_tokens)
    length = bucket_length(tokens, max_tokens)
    assert tokens <= length <= max_tokens
    assert bucket_length(length, max_tokens) == length
    assert bucket_length(max(tokens - 1, 1), max_tokens) <= length


@given(st.integers(1, 2000))
def test_buckets_follow_the_rule(tokens: int) -> None:
    length = bucket_length(tokens, 10**6)
    step = 8 if length <= 64 else 16 if length <= 256 else 64
    assert length % step == 0
    assert length - tokens < step


def test_there_are_few_buckets() -> None:
    lengths = {bucket_length(tokens, 512) for tokens in range(1, 513)}
    assert sorted(lengths) == [*range(8, 65, 8), *range(80, 257, 16), *range(320, 513, 64)]


@settings(deadline=None)
@given(st.lists(st.text(string.ascii_letters + " .é日\n\0", max_size=40), max_size=8))
def test_ids_are_those_of_the_tokenizer_and_the_rest_is_padding(texts: list[str]) -> None:
    reference = Tokenizer.from_buffer(bert_tokenizer(padding=False))
    reference.enable_truncation(30)
    encoded = encoder(30, pad_id=9, pad_type_id=5).encode(texts)
    ids, masks, types = (rows_of(encoded, tensor) for tensor in range(3))
    assert not encoded.bad
    for row, text in enumerate(texts):
        expected = reference.encode(text).ids
        padding = bucket_length(len(expected), 30) - len(expected)
        assert ids[row] == expected + [9] * padding
        assert masks[row] == [1] * len(expected) + [0] * padding
        assert types[row] == [0] * len(expected) + [5] * padding


def test_long_texts_keep_their_begin_and_their_special_tokens() -> None:
    ids = rows_of(encoder(5).encode(["a b c d e f g"]))[0]
    assert ids == [CLS, *(4 + n for n in range(3)), SEP]


def test_an_empty_text_is_its_special_tokens() -> None:
    assert rows_of(encoder().encode([""]))[0] == [CLS, SEP] + [0] * 6


def test_type_ids_come_from_the_tokenizer() -> None:
    tokenizer = Tokenizer.from_buffer(bert_tokenizer(padding=False))
    tokenizer.post_processor = processors.TemplateProcessing(
        "[CLS]:3 $A:1", special_tokens=[("[CLS]", CLS)]
    )
    encoded = encoder(tokenizer=tokenizer.to_str().encode()).encode(["a b"])
    assert rows_of(encoded, tensor=2)[0] == [3, 1, 1, 0, 0, 0, 0, 0]


@pytest.mark.parametrize("dtype", ["int64", "int32"])
@pytest.mark.parametrize("names", [("input_ids",), ("token_type_ids", "input_ids"), TENSORS[::-1]])
def test_tensors_come_in_the_order_and_type_of_the_inputs(
    names: tuple[str, ...], dtype: str
) -> None:
    (group,) = encoder(names=names, dtype=dtype).encode(["a", "b"]).groups
    assert [tensor.dtype.name for tensor in group.tensors] == [dtype] * len(names)
    assert group.tensors[names.index("input_ids")][1].tolist()[:3] == [CLS, 5, SEP]


def test_a_fixed_number_of_tokens_is_filled_exactly() -> None:
    encoded = encoder(max_tokens=19, tokens=21).encode(["", "a b c", "a " * 50])
    (group,) = encoded.groups
    assert group.tensors[0].shape == (3, 21)
    assert group.tensors[1].sum(axis=1).tolist() == [2, 5, 19]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (None, "found a NoneType; expected a text"),
        (3, "found a int"),
        (b"bytes", "found a bytes"),
        ("ab\ud800", r"found half of a surrogate pair (U+D800) at character 2"),
    ],
)
def test_rows_that_are_no_text_are_bad_alone(row: Any, message: str) -> None:
    encoded = encoder().encode(["a", row, "b"])
    assert list(encoded.bad) == [1]
    assert message in encoded.bad[1]
    assert rows_of(encoded) == {0: [2, 4, 3, 0, 0, 0, 0, 0], 2: [2, 5, 3, 0, 0, 0, 0, 0]}


def test_a_text_that_the_tokenizer_refuses_is_bad_alone() -> None:
    encoded = encoder(tokenizer=word_tokenizer(unknown=False)).encode(["one", "three", "two"])
    assert list(encoded.bad) == [1]
    assert "tokenizer.json cannot encode" in encoded.bad[1]
    assert {row: ids[0] for row, ids in rows_of(encoded).items()} == {0: 0, 2: 1}


def test_a_text_without_any_token_is_bad() -> None:
    encoded = encoder(tokenizer=word_tokenizer(unknown=True)).encode([" ", "three"])
    assert encoded.bad == {0: "found a text without a token; expected at least one"}
    assert rows_of(encoded)[1][0] == 2


def test_arrays_of_texts_are_rows_too() -> None:
    array = np.array(["a", "b c"])
    for rows in (array, array.astype(object)):
        assert rows_of(encoder().encode(rows)) == rows_of(encoder().encode(["a", "b c"]))


@pytest.mark.parametrize("unit", ["word ", "a", " ", "日", "\ufffd", "\u0301"])
def test_ten_megabytes_cost_no_more_than_what_is_read_of_them(unit: str) -> None:
    text = unit * (10_000_000 // len(unit))
    subject = encoder(max_tokens=64)
    subject.encode([text])
    fastest = min(_seconds(subject, text) for _ in range(5))
    assert fastest < 0.05
    assert rows_of(subject.encode([text])) == rows_of(subject.encode([text[: 64 * 64]]))


def _seconds(subject: TextEncoder, text: str) -> float:
    begin = time.perf_counter()
    subject.encode([text])
    return time.perf_counter() - begin


@pytest.mark.skipif(sys.platform != "linux", reason="counts threads in /proc")
def test_no_threads_are_started_and_a_fork_goes_on_silently() -> None:
    code = """
import os
from tests.models.test_text_encoder import encoder
subject, before = encoder(), len(os.listdir("/proc/self/task"))
subject.encode(["a b c"] * 300)
print(len(os.listdir("/proc/self/task")) - before, flush=True)
child = os.fork()
subject.encode(["a b c"] * 300)
if not child:
    os._exit(7)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=60
    )
    assert (result.stdout.split(), result.stderr) == (["0", "7"], "")
