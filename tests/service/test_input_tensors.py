from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.errors import InvalidInput
from models.manifest import Manifest
from models.preprocessing import ImagePreprocessing, TensorSpec, TextPreprocessing
from service.input_tensors import input_rows, raw_input
from service.prepared_rows import PreparedRows
from service.tensors import DATATYPES, Tensor
from tests.manifests import full_manifest
from tests.service.random_tensors import tensors

IDS = TensorSpec(name="input_ids", dtype="int64", row_shape=(None,))
MASK = TensorSpec(name="attention_mask", dtype="int64", row_shape=(None,))


def manifest(kind: str, *inputs: TensorSpec) -> Manifest:
    preprocessing = {
        "text": TextPreprocessing(max_tokens=40),
        "image": ImagePreprocessing(height=4, width=4),
    }
    changed = {"preprocessing": preprocessing[kind]} if kind in preprocessing else {}
    return full_manifest().model_copy(update={"inputs": inputs, **changed})


NUMBERS = manifest("numbers", TensorSpec(name="x", row_shape=(2, None)))
TEXTS = manifest("text", IDS, MASK)
IMAGES = manifest("image", TensorSpec(name="pixels", row_shape=(3, 4, 4)))
TOKENS = Tensor("input_ids", np.ones((2, 5), np.int64))
ATTENDED = Tensor("attention_mask", np.ones((2, 5), np.int64))
PIXELS = Tensor("pixels", np.zeros((2, 3, 4, 4), np.float32))


def texts(*elements: bytes, name: str = "text", shape: tuple[int, ...] = (-1,)) -> Tensor:
    array = np.empty(len(elements), object)
    array[:] = elements
    return Tensor(name, array.reshape(shape))


def test_raw_rows_have_a_name_that_no_own_tensor_has() -> None:
    assert raw_input(NUMBERS) is None
    assert raw_input(TEXTS) == "text"
    assert raw_input(IMAGES) == "image"
    assert raw_input(manifest("image", TensorSpec(name="image", row_shape=(3, 4, 4)))) == (
        "image_bytes"
    )


@given(st.integers(0, 4), st.integers(1, 4))
def test_numbers_are_taken_as_they_are(rows: int, size: int) -> None:
    array = np.zeros((rows, 2, size), np.float32)
    assert input_rows([Tensor("x", array)], NUMBERS) is array


@given(st.lists(st.text(max_size=5), min_size=1, max_size=5), st.booleans())
def test_bytes_are_texts_in_utf8(sent: list[str], column: bool) -> None:
    tensor = texts(*(text.encode() for text in sent), shape=(-1, 1) if column else (-1,))
    assert input_rows([tensor], TEXTS) == sent


@given(st.lists(st.binary(max_size=5), min_size=1, max_size=5))
def test_bytes_are_image_files(sent: list[bytes]) -> None:
    assert input_rows([texts(*sent, name="image")], IMAGES) == sent


def test_a_text_that_is_no_utf8_is_named() -> None:
    with pytest.raises(InvalidInput, match="input 'text': row 1 is no UTF-8 from byte 2 on"):
        input_rows([texts(b"fine", b"ab\xff")], TEXTS)


@pytest.mark.parametrize("inputs", [[TOKENS, ATTENDED], [ATTENDED, TOKENS]])
def test_own_tensors_come_in_any_order(inputs: list[Tensor]) -> None:
    rows = input_rows(inputs, TEXTS)
    assert isinstance(rows, PreparedRows)
    assert len(rows) == 2
    prepared = input_rows([PIXELS], IMAGES)
    assert isinstance(prepared, PreparedRows)
    np.testing.assert_array_equal(prepared.groups[0].tensors[0], PIXELS.array)


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ([], ["found none", "'input_ids', 'attention_mask', or 'text' alone"]),
        ([TOKENS], ["found 'input_ids'", "expected 'input_ids', 'attention_mask'"]),
        ([TOKENS, TOKENS], ["found 'input_ids' twice"]),
        ([TOKENS, ATTENDED, texts(b"a")], ["'text'"]),
        ([texts(b"a"), texts(b"a")], ["found 'text' twice"]),
        ([TOKENS, Tensor("mask", ATTENDED.array)], ["unknown 'mask'"]),
        ([Tensor("text", np.ones(2, np.float32))], ["'text'", "FP32", "expected BYTES"]),
        ([texts(b"a", b"b", b"c", b"d", shape=(2, 2))], ["shape [2, 2]", "shape [rows]"]),
        ([texts(b"a", shape=())], ["shape []", "shape [rows]"]),
        ([TOKENS, Tensor("attention_mask", np.ones((2, 5)))], ["'attention_mask'", "FP64"]),
        ([TOKENS, Tensor("attention_mask", np.ones(5, int))], ["shape [5]", "[rows, any]"]),
        ([TOKENS, Tensor("attention_mask", np.ones((2, 0), int))], ["shape [2, 0]"]),
        ([TOKENS, Tensor("attention_mask", np.ones((3, 5), int))], ["2 in 'input_ids'", "3 in"]),
        ([TOKENS, Tensor("attention_mask", np.ones((2, 6), int))], ["5 in 'input_ids'", "6 in"]),
    ],
)
def test_inputs_that_are_no_rows_are_refused(inputs: list[Tensor], words: list[str]) -> None:
    with pytest.raises(InvalidInput) as refusal:
        input_rows(inputs, TEXTS)
    assert all(word in str(refusal.value) for word in words), refusal.value


@given(st.lists(tensors(tuple(DATATYPES)), max_size=3), st.sampled_from([NUMBERS, TEXTS, IMAGES]))
def test_whatever_is_sent_is_rows_or_refused(sent: list[Tensor], model: Manifest) -> None:
    names = [spec.name for spec in model.inputs] + [raw_input(model) or "other"]
    renamed = [Tensor(names[k % len(names)], tensor.array) for k, tensor in enumerate(sent)]
    for inputs in (sent, renamed, renamed[:1], renamed[:2]):
        try:
            rows = input_rows(inputs, model)
        except InvalidInput:
            continue
        assert len(rows) in {math.prod(tensor.shape[:1]) for tensor in inputs}
