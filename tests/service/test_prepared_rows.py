from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from models.encoders import open_encoder
from models.errors import InvalidInput
from models.preprocessing import TensorSpec, TextPreprocessing
from models.text_encoder import bucket_length
from service.prepared_rows import PreparedRows, image_rows, token_rows
from tests.service.conftest import cold_dataplane
from tests.small_bundles import small_bundle

PAD, MAX_TOKENS = 7, 40
TEXT = TextPreprocessing(max_tokens=MAX_TOKENS, pad_id=PAD)
IDS = TensorSpec(name="input_ids", dtype="int64", row_shape=(None,))
MASK = TensorSpec(name="attention_mask", dtype="int64", row_shape=(None,))
FIXED = [spec.model_copy(update={"row_shape": (MAX_TOKENS,)}) for spec in (IDS, MASK)]

row_lengths = st.lists(st.integers(1, MAX_TOKENS), min_size=1, max_size=12)


def padded(lengths: list[int], width: int) -> list[np.ndarray]:
    """Token ids from 100 on, and their mask: each (b, width)."""
    mask = np.arange(width) < np.array(lengths)[:, None]
    ids = np.where(mask, 100 + np.arange(len(lengths) * width).reshape(mask.shape), 99)
    return [ids, mask.astype(np.int64)]


def assert_every_row_once(rows: PreparedRows, count: int) -> None:
    assert len(rows) == count
    assert sorted(np.concatenate([group.rows for group in rows.groups])) == list(range(count))


@given(row_lengths, st.data())
def test_padded_texts_are_cut_to_the_buckets_of_the_encoder(
    lengths: list[int], data: st.DataObject
) -> None:
    arrays = padded(lengths, data.draw(st.integers(max(lengths), MAX_TOKENS)))
    rows = token_rows(arrays, [IDS, MASK], TEXT)
    assert_every_row_once(rows, len(lengths))
    for group in rows.groups:
        ids, mask = group.tensors
        for place, row in enumerate(group.rows):
            length = lengths[row]
            assert ids.shape[1] == mask.shape[1] == bucket_length(length, MAX_TOKENS)
            assert mask[place].tolist() == [1] * length + [0] * (mask.shape[1] - length)
            np.testing.assert_array_equal(ids[place, :length], arrays[0][row, :length])


@given(row_lengths)
def test_rows_are_lengthened_with_the_padding_of_the_model(lengths: list[int]) -> None:
    arrays = padded(lengths, max(lengths))
    for group in token_rows(arrays, [IDS, MASK], TEXT).groups:
        ids, mask = group.tensors
        assert (ids[:, max(lengths) :] == PAD).all()
        assert (mask[:, max(lengths) :] == 0).all()


def test_what_lies_between_tokens_that_count_is_kept() -> None:
    mask = np.array([[0, 1, 0, 1, 0, 0]])
    (group,) = token_rows([np.arange(6)[None], mask], [IDS, MASK], TEXT).groups
    assert group.tensors[1].tolist() == [[0, 1, 0, 1, 0, 0, 0, 0]]
    assert group.tensors[0][0, :4].tolist() == [0, 1, 2, 3]


@given(row_lengths)
def test_models_of_one_length_get_their_rows_as_they_are(lengths: list[int]) -> None:
    arrays = padded(lengths, MAX_TOKENS)
    (group,) = token_rows(arrays, FIXED, TEXT).groups
    for tensor, array in zip(group.tensors, arrays, strict=True):
        assert tensor is array


def test_without_a_mask_nothing_is_cut() -> None:
    ids = np.zeros((3, 17), np.int64)
    (group,) = token_rows([ids], [IDS], TEXT).groups
    assert group.tensors == (ids,)
    assert group.rows.tolist() == [0, 1, 2]


@pytest.mark.parametrize("inputs", [[IDS, MASK], FIXED])
def test_a_row_that_attends_to_nothing_is_refused(inputs: list[TensorSpec]) -> None:
    arrays = padded([3, 0, 2], MAX_TOKENS)
    with pytest.raises(InvalidInput, match=r"rows\[1\]: found no token"):
        token_rows(arrays, inputs, TEXT)


def test_texts_that_are_too_long_are_refused() -> None:
    with pytest.raises(InvalidInput, match="found 41 tokens, expected at most 40"):
        token_rows(padded([3], 41), [IDS, MASK], TEXT)


def test_no_rows_are_no_rows() -> None:
    assert len(token_rows([np.zeros((0, 5), int)] * 2, [IDS, MASK], TEXT)) == 0
    assert len(image_rows(np.zeros((0, 3, 4, 4), np.float32))) == 0


@given(hnp.arrays(np.float32, (3, 1, 2, 2), elements=st.floats(-1, 1, width=32)))
def test_images_are_one_group(images: np.ndarray) -> None:
    (group,) = image_rows(images).groups
    assert group.rows.tolist() == [0, 1, 2]
    np.testing.assert_array_equal(group.tensors[0], images)


@given(st.integers(0, 2), st.sampled_from([np.nan, np.inf, -np.inf]))
def test_an_image_that_is_not_finite_is_named(row: int, value: float) -> None:
    images = np.zeros((3, 1, 2, 2), np.float32)
    images[row, 0, 1, 0] = value
    with pytest.raises(InvalidInput, match=rf"rows\[{row}\]: found a value that is not finite"):
        image_rows(images)


def test_tokens_and_their_text_are_answered_alike(tmp_path: Path) -> None:
    texts = ["w1", "w2 w3 " * 9, "w4 w5 w6", "w7 " * 40]
    bundle = small_bundle(tmp_path / "texts", "text")
    manifest = bundle.manifest
    encoder = open_encoder(manifest.preprocessing, manifest.inputs, bundle.files)
    tokens = [
        np.zeros((len(texts), MAX_TOKENS), spec.dtype) + 3 * (spec.name == "input_ids")
        for spec in manifest.inputs
    ]
    for group in encoder.encode(texts).groups:
        for array, tensor in zip(tokens, group.tensors, strict=True):
            array[group.rows, : tensor.shape[1]] = tensor
    assert isinstance(manifest.preprocessing, TextPreprocessing)
    rows = token_rows(tokens, manifest.inputs, manifest.preprocessing)
    plane = cold_dataplane(bundle)

    async def both() -> list[np.ndarray]:
        await plane.warm_up()
        predictions = [await plane.predict(texts), await plane.predict(rows)]
        return [prediction.routed.answers.probabilities for prediction in predictions]

    of_texts, of_tokens = asyncio.run(both())
    np.testing.assert_allclose(of_tokens, of_texts, atol=1e-5)
    plane.close()
