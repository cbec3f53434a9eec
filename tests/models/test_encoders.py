from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import TypeAdapter, ValidationError

from models.encoders import open_encoder, refuse_bad
from models.encoding import Encoded, Encoder, Group
from models.errors import BundleError, InvalidInput
from models.preprocessing import (
    TOKENIZER,
    ImagePreprocessing,
    NumberPreprocessing,
    Preprocessing,
    TensorSpec,
    TextPreprocessing,
)
from tests.models.test_text_encoder import ROOT, bert_tokenizer

NUMBERS = NumberPreprocessing()
TEXT = TextPreprocessing(max_tokens=20)
IMAGE = ImagePreprocessing(height=6, width=5)
FILES = {TOKENIZER: bert_tokenizer()}

IDS = TensorSpec(name="input_ids", dtype="int64", row_shape=(None,))
MASK = TensorSpec(name="attention_mask", dtype="int64", row_shape=(None,))
PICTURE = TensorSpec(name="pixels", row_shape=(3, 6, 5))
VECTOR = TensorSpec(name="x", row_shape=(3,))


def image_file(seed: int, kind: str, **options: Any) -> bytes:
    rng = np.random.default_rng(seed)
    size = rng.integers(1, 30, 2)
    stream = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)).save(stream, kind, **options)
    return stream.getvalue()


ENCODERS: dict[str, Encoder] = {
    "numbers": open_encoder(NUMBERS, [VECTOR], {}),
    "text": open_encoder(TEXT, [IDS, MASK], FILES),
    "image": open_encoder(IMAGE, [PICTURE], {}),
}
NUMBER = st.floats(width=32, allow_nan=False, allow_infinity=False) | st.sampled_from(
    [np.nan, np.inf, 1e300]
)
ROWS = {
    "numbers": st.lists(st.tuples(NUMBER, NUMBER, NUMBER), max_size=6).map(
        lambda rows: np.array(rows, np.float64).reshape(-1, 3)
    ),
    "text": st.lists(
        st.lists(st.sampled_from(["a", "bc", "abc", "日"]), max_size=30).map(" ".join)
        | st.text(st.characters())
        | st.none(),
        max_size=6,
    ),
    "image": st.lists(
        st.builds(image_file, st.integers(0, 99), st.sampled_from(["PNG", "BMP", "JPEG"]))
        | st.binary(max_size=9)
        | st.none(),
        max_size=6,
    ),
}


def by_row(encoded: Encoded) -> dict[int, list[np.ndarray]]:
    found: dict[int, list[np.ndarray]] = {}
    for group in encoded.groups:
        for position, row in enumerate(group.rows):
            assert row not in found
            found[int(row)] = [tensor[position] for tensor in group.tensors]
    return found


@pytest.mark.parametrize("kind", ENCODERS)
@settings(deadline=None, max_examples=60)
@given(st.data())
def test_every_row_is_in_one_group_or_bad_and_encoded_as_if_alone(
    kind: str, data: st.DataObject
) -> None:
    rows: Any = data.draw(ROWS[kind])
    encoded = ENCODERS[kind].encode(rows)
    tensors = by_row(encoded)
    assert sorted([*tensors, *encoded.bad]) == list(range(len(rows)))
    for row in range(len(rows)):
        alone = ENCODERS[kind].encode(rows[row : row + 1])
        assert encoded.bad.get(row) == alone.bad.get(0)
        for together, single in zip(tensors.get(row, []), by_row(alone).get(0, []), strict=True):
            np.testing.assert_array_equal(together, single)


@pytest.mark.parametrize("kind", ENCODERS)
@settings(deadline=None, max_examples=60)
@given(st.data())
def test_a_group_can_be_run_as_one_batch(kind: str, data: st.DataObject) -> None:
    inputs = {"numbers": [VECTOR], "text": [IDS, MASK], "image": [PICTURE]}[kind]
    groups = ENCODERS[kind].encode(data.draw(ROWS[kind])).groups
    assert len({group.tensors[0].shape[1:] for group in groups}) == len(groups)
    for group in groups:
        assert len(group.rows) > 0
        assert [tensor.dtype.name for tensor in group.tensors] == [spec.dtype for spec in inputs]
        for tensor, spec in zip(group.tensors, inputs, strict=True):
            assert len(tensor) == len(group.rows)
            assert tensor.flags.c_contiguous
            assert tensor.ndim == 1 + len(spec.row_shape)
            assert all(
                want in {size, None}
                for size, want in zip(tensor.shape[1:], spec.row_shape, strict=True)
            )


@pytest.mark.parametrize(
    ("preprocessing", "inputs", "files", "message"),
    [
        (TEXT, [IDS], {}, r"needs tokenizer\.json, found no files"),
        (TEXT, [IDS], {TOKENIZER: b"{}"}, r"tokenizer\.json cannot be read"),
        (TEXT, [IDS, VECTOR], FILES, "'x' cannot be made from a text: expected any of input_ids"),
        (TEXT, [MASK], FILES, r"needs the input 'input_ids', found \['attention_mask'\]"),
        (TEXT, [IDS.model_copy(update={"row_shape": (4, 4)})], FILES, "expected one dimension"),
        (TEXT, [IDS.model_copy(update={"dtype": "float32"})], FILES, "expected int64 or int32"),
        (TEXT, [IDS.model_copy(update={"row_shape": (16,)})], FILES, "max_tokens is 20"),
        (TextPreprocessing(max_tokens=2), [IDS], FILES, "adds 2 special tokens.* at least 3"),
        (NUMBERS, [VECTOR, VECTOR], {}, "has 2 inputs"),
        (NumberPreprocessing(mean=(1, 2)), [VECTOR], {}, r"2 columns.*shape \(3,\)"),
        (NumberPreprocessing(mean=(1, 2, 3), scale=(1,)), [VECTOR], {}, "3 means but 1 scales"),
        (NumberPreprocessing(scale=(1, 1)), [PICTURE], {}, r"expected \(2,\)"),
        (
            NumberPreprocessing(scale=(1, 1, 1)),
            [VECTOR.model_copy(update={"dtype": "int64"})],
            {},
            "expected a float input",
        ),
        (IMAGE, [PICTURE, MASK], {}, "has 2 inputs"),
        (IMAGE, [VECTOR], {}, r"takes rows of float32 \(3,\).*\(3, 6, 5\)"),
        (IMAGE, [IDS.model_copy(update={"row_shape": (3, 6, 5)})], {}, "takes rows of int64"),
        (IMAGE.model_copy(update={"mode": "L"}), [PICTURE], {}, r"\(1, 6, 5\)"),
        (IMAGE.model_copy(update={"mean": (0.5,)}), [PICTURE], {}, "1 values of mean.* 3 channels"),
        (IMAGE.model_copy(update={"std": (1.0, 1.0)}), [PICTURE], {}, "2 values of std"),
    ],
)
def test_parts_that_do_not_fit_are_refused(
    preprocessing: Preprocessing,
    inputs: Sequence[TensorSpec],
    files: dict[str, bytes],
    message: str,
) -> None:
    with pytest.raises(BundleError, match=message):
        open_encoder(preprocessing, inputs, files)


def test_good_rows_pass() -> None:
    groups = [Group(np.array([0]), (np.zeros((1, 2)),))]
    assert refuse_bad(Encoded(groups, {})) is groups


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({4: "too long"}, r"texts\[4\]: too long"),
        ({9: "late", 2: "early"}, r"texts\[2\]: early \(1 more bad row\)"),
        ({9: "late", 2: "early", 5: ""}, r"texts\[2\]: early \(2 more bad rows\)"),
    ],
)
def test_the_first_bad_row_is_named(bad: dict[int, str], message: str) -> None:
    with pytest.raises(InvalidInput, match=f"^{message}$"):
        refuse_bad(Encoded([], bad), field="texts")


@pytest.mark.parametrize("preprocessing", [NUMBERS, TEXT, IMAGE])
def test_preprocessing_survives_the_manifest(preprocessing: Preprocessing) -> None:
    adapter: TypeAdapter[Preprocessing] = TypeAdapter(Preprocessing)
    assert adapter.validate_json(adapter.dump_json(preprocessing)) == preprocessing


def test_images_are_resized_in_one_way() -> None:
    with pytest.raises(ValidationError, match="exclude each other"):
        ImagePreprocessing(height=4, width=4, shortest_edge=5, resize_to=(5, 5))


def test_numbers_need_neither_pillow_nor_tokenizers() -> None:
    code = """
import sys
from models.encoders import open_encoder
from models.preprocessing import NumberPreprocessing, TensorSpec
open_encoder(NumberPreprocessing(), [TensorSpec(name="x", row_shape=(3,))], {})
print(sorted({"PIL", "tokenizers", "torch", "pandas", "transformers"} & set(sys.modules)))
"""
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert result.stdout.strip() == "[]"
