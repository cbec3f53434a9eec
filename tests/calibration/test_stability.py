from __future__ import annotations

import numpy as np
import onnx
import pytest

from calibration.layer_answers import LayerHead, layer_answers
from calibration.layers import LayeredModel, layers_of_source
from calibration.source import Source
from calibration.stability import disturbed, noise_distances
from calibration.transport import exact_w
from models.encoding import Group
from models.heads import HeadCalibration, HeadLayers
from models.preprocessing import TensorSpec
from models.runtime import open_session
from tests.tiny_models import labelled_rows, residual_mlp

WIDTH, LABELS = 64, 3
NAMES = ("attention_mask", "input_ids", "token_type_ids")


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def texts(lengths: list[int], size: int, left: bool = False) -> tuple[np.ndarray, ...]:
    """Mask, tokens and types; tokens 1 and 2 begin and end a text, 0 pads it."""
    rng = np.random.default_rng(1)
    tokens = np.zeros((len(lengths), size), np.int64)
    mask = np.zeros_like(tokens)
    for row, length in enumerate(lengths):
        place = slice(size - length, size) if left else slice(0, length)
        tokens[row, place] = [1, *rng.integers(10, 1000, length - 2), 2]
        mask[row, place] = 1
    return mask, tokens, mask * 3


def test_numbers_move_by_a_hundredth_of_their_spread(rng: np.random.Generator) -> None:
    rows = (50 + 8 * rng.normal(size=(400, 30))).astype(np.float32)
    (moved,) = disturbed(["x"], (rows,), rng)
    assert moved.dtype == rows.dtype
    assert (moved - rows).std() == pytest.approx(0.08, rel=0.05)
    assert (moved - rows).mean() == pytest.approx(0, abs=0.01)


@pytest.mark.parametrize("left", [False, True], ids=["padded right", "padded left"])
def test_two_percent_of_the_inner_tokens_are_replaced(rng: np.random.Generator, left: bool) -> None:
    rows = texts([40, 22, 12, 50] * 20, 50, left)
    moved = disturbed(NAMES, rows, rng)
    np.testing.assert_array_equal(moved[0], rows[0])
    np.testing.assert_array_equal(moved[2], rows[2])
    before, after = rows[1], moved[1]
    inner = before >= 10
    np.testing.assert_array_equal(after[~inner], before[~inner])
    assert np.isin(after[inner], before[inner]).all()
    # a token may be replaced by an equal one, which is rare here
    assert (after != before).sum() == pytest.approx(0.02 * inner.sum(), rel=0.1)


def test_all_tokens_are_real_without_a_mask(rng: np.random.Generator) -> None:
    tokens = rng.integers(0, 5000, (30, 20))
    (moved,) = disturbed(["input_ids"], (tokens,), rng)
    assert (moved != tokens).sum() == pytest.approx(0.02 * 30 * 18, abs=2)
    np.testing.assert_array_equal(moved[:, [0, -1]], tokens[:, [0, -1]])


def test_a_few_short_texts_lose_one_token(rng: np.random.Generator) -> None:
    mask, tokens, types = texts([6, 5], 8)
    _, moved, _ = disturbed(NAMES, (mask, tokens, types), rng)
    assert (moved != tokens).sum() <= 1


def test_texts_without_inner_tokens_stay(rng: np.random.Generator) -> None:
    rows = texts([2, 2], 4)
    for before, after in zip(rows, disturbed(NAMES, rows, rng), strict=True):
        np.testing.assert_array_equal(before, after)


def test_a_mask_of_numbers_stays(rng: np.random.Generator) -> None:
    mask, tokens, _ = texts([20, 10], 20)
    floats = mask.astype(np.float32)
    moved, _ = disturbed(NAMES[:2], (floats, tokens), rng)
    np.testing.assert_array_equal(moved, floats)


def test_rows_given_are_not_written_to(rng: np.random.Generator) -> None:
    rows = (*texts([40, 40], 40), np.ones((2, 3), np.float32))
    copies = [tensor.copy() for tensor in rows]
    disturbed([*NAMES, "x"], rows, rng)
    for tensor, copy in zip(rows, copies, strict=True):
        np.testing.assert_array_equal(tensor, copy)


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    return residual_mlp(3, width=WIDTH)


@pytest.fixture(scope="module")
def sample(model: onnx.ModelProto) -> Group:
    rows, _ = labelled_rows(model, 100)
    return Group(np.arange(len(rows)), (rows,))


@pytest.fixture(scope="module")
def layered(model: onnx.ModelProto, sample: Group) -> LayeredModel:
    inputs = (TensorSpec(name="x", row_shape=(WIDTH,)),)
    return layers_of_source(Source(model, inputs, "logits", True), sample.tensors, LABELS)


def heads_of(layered: LayeredModel) -> list[LayerHead]:
    rng = np.random.default_rng(0)
    calibration = HeadCalibration(
        np.ones(LABELS, np.float32), np.zeros(LABELS, np.float32), np.full(LABELS, 0.5, np.float32)
    )
    weight = rng.normal(size=(WIDTH, LABELS)).astype(np.float32)
    linear = HeadLayers((weight,), (np.zeros(LABELS, np.float32),))
    return [
        LayerHead(None if layer.has_logits else linear, calibration) for layer in layered.layers
    ]


def test_distances_are_those_of_the_full_models_answers(
    model: onnx.ModelProto, layered: LayeredModel, sample: Group
) -> None:
    heads = heads_of(layered)
    found = noise_distances(layered, heads, sample, seed=4)
    moved = disturbed(["x"], sample.tensors, np.random.default_rng(4))
    session = open_session(model.SerializeToString())
    logits = [session.run(None, {"x": rows})[0] for (rows,) in (sample.tensors, moved)]
    one, other = (layer_answers(column, heads[-1]).probabilities for column in logits)
    assert found[-1] == pytest.approx(exact_w(one, other), rel=1e-3)
    assert len(found) == len(layered.layers)
    assert all(0 < distance < 0.2 for distance in found)


def test_the_seed_decides_the_noise(layered: LayeredModel, sample: Group) -> None:
    heads = heads_of(layered)
    one, again, other = (noise_distances(layered, heads, sample, seed) for seed in (1, 1, 2))
    assert one == again
    assert one != other
