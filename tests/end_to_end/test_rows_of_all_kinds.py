"""Texts and images through the HTTP door, in bundles of the examples."""

from __future__ import annotations

import asyncio
import base64
import csv
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from starlette.testclient import TestClient

from models.bundle import read_bundle
from tests.end_to_end.conftest import Run
from tests.service.conftest import app_over, cold_dataplane

pytestmark = pytest.mark.slow

ROWS = 64
LEAST_F1 = 0.75  # naming every label gives about 0.5, these small models about 0.9


@contextmanager
def serving(bundle_path: Path) -> Iterator[TestClient]:
    bundle = read_bundle(bundle_path)
    plane = cold_dataplane(bundle, lanes=2, max_rows=ROWS)
    asyncio.run(plane.warm_up())
    with TestClient(app_over(plane), raise_server_exceptions=False) as client:
        yield client
    plane.close()


@pytest.fixture(scope="module")
def comments(example_runs: Callable[[str], list[Run]]) -> Run:
    return example_runs("huggingface")[0]


@pytest.fixture(scope="module")
def text_client(comments: Run) -> Iterator[TestClient]:
    with serving(comments.bundle) as client:
        yield client


@pytest.fixture(scope="module")
def pairs(example_runs: Callable[[str], list[Run]]) -> Run:
    return example_runs("torch_factory")[0]


@pytest.fixture(scope="module")
def image_client(pairs: Run) -> Iterator[TestClient]:
    with serving(pairs.bundle) as client:
        yield client


@pytest.fixture(scope="module")
def texts(comments: Run) -> dict[str, set[str]]:
    """Comments and their topics."""
    with (comments.folder / "build/examples/huggingface/comments.tsv").open(newline="") as file:
        rows = [*csv.DictReader(file, delimiter="\t")][:ROWS]
    return {row["text"]: label_set(row["labels"]) for row in rows}


@pytest.fixture(scope="module")
def images(pairs: Run) -> dict[str, set[str]]:
    """Images as base64, and the digits on them."""
    folder = pairs.folder / "build/examples/torch_factory/images"
    with (folder / "labels.csv").open(newline="") as file:
        rows = [*csv.DictReader(file)][:ROWS]
    return {encoded((folder / row["image"]).read_bytes()): label_set(row["labels"]) for row in rows}


def label_set(cell: str) -> set[str]:
    return set(filter(None, cell.split(",")))


def encoded(content: bytes) -> str:
    return base64.b64encode(content).decode()


def predict(client: TestClient, rows: list[str], **fields: Any) -> list[dict[str, Any]]:
    response = client.post("/predict", json={"rows": rows, **fields})
    assert response.status_code == 200, response.text
    return response.json()["rows"]


def refused(client: TestClient, rows: list[Any]) -> str:
    response = client.post("/predict", json={"rows": rows})
    assert response.status_code == 400, response.text
    return response.json()["error"]


def names(answer: dict[str, Any]) -> set[str]:
    return {label["name"] for label in answer["labels"]}


def micro_f1(answers: list[dict[str, Any]], truth: list[set[str]]) -> float:
    found = [names(answer) for answer in answers]
    common = sum(len(a & b) for a, b in zip(found, truth, strict=True))
    return 2 * common / sum(len(a) + len(b) for a, b in zip(found, truth, strict=True))


def check_alone(client: TestClient, rows: list[str], together: list[dict[str, Any]]) -> None:
    """Every answer is its own row's, and the one that the row gets alone."""
    for row, answer in zip(rows, together, strict=True):
        (alone,) = predict(client, [row])
        assert alone["probabilities"] == pytest.approx(answer["probabilities"], abs=1e-4)
        assert (names(alone), alone["exit"]) == (names(answer), answer["exit"])


@pytest.mark.parametrize("policy", ["certified", "full"])
def test_texts_get_their_labels(
    text_client: TestClient, texts: dict[str, set[str]], policy: str
) -> None:
    answers = predict(text_client, list(texts), policy=policy)
    assert list(answers[0]["probabilities"]) == ["delivery", "price", "quality", "size", "service"]
    assert micro_f1(answers, list(texts.values())) > LEAST_F1


def test_texts_of_all_lengths_keep_their_places(
    text_client: TestClient, texts: dict[str, set[str]]
) -> None:
    rows = sorted(texts, key=len)
    rows = [*rows[:4], *rows[-4:], "", " ".join(rows[:8]), "qwertz 😀", *rows[4:8]]
    check_alone(text_client, rows, predict(text_client, rows))


def test_an_empty_text_is_a_text(text_client: TestClient) -> None:
    (answer,) = predict(text_client, [""])
    assert set(answer["probabilities"]) >= names(answer)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (7, ["found 7", "string"]),
        (None, ["found None", "string"]),
        (["a text"], ["found ['a text']", "string"]),
    ],
)
def test_a_row_that_is_no_text_is_named(
    text_client: TestClient, row: object, words: list[str]
) -> None:
    error = refused(text_client, ["the lamp broke", "", row, "it came on friday"])
    assert "rows[2]" in error
    assert all(word in error for word in words), error


@pytest.mark.parametrize("policy", ["certified", "full"])
def test_images_get_their_labels(
    image_client: TestClient, images: dict[str, set[str]], policy: str
) -> None:
    answers = predict(image_client, list(images), policy=policy)
    assert list(answers[0]["probabilities"]) == [str(digit) for digit in range(10)]
    assert micro_f1(answers, list(images.values())) > LEAST_F1


def test_images_keep_their_places(image_client: TestClient, images: dict[str, set[str]]) -> None:
    rows = list(images)[:12]
    check_alone(image_client, rows, predict(image_client, rows))


def test_an_image_may_have_another_size_and_format(
    image_client: TestClient, images: dict[str, set[str]]
) -> None:
    row = next(iter(images))
    image = Image.open(BytesIO(base64.b64decode(row)))
    larger = BytesIO()
    image.resize((128, 64)).convert("RGB").save(larger, "JPEG", quality=95)
    plain, other = predict(image_client, [row, encoded(larger.getvalue())], policy="full")
    assert other["probabilities"] == pytest.approx(plain["probabilities"], abs=0.2)


def cut_short(content: bytes) -> str:
    return encoded(content[: len(content) // 2])


def no_image(_: bytes) -> str:
    return encoded(b"a text")


def no_base64(_: bytes) -> str:
    return "no base64!"


def nothing(_: bytes) -> str:
    return ""


def a_number(_: bytes) -> int:
    return 7


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (cut_short, ["PNG of 32 x 16 pixels", "cut short", "expected the whole file"]),
        (no_image, ["no image that can be read"]),
        (no_base64, ["'no base64!'", "base64"]),
        (nothing, ["found no bytes"]),
        (a_number, ["found 7", "string"]),
    ],
)
def test_a_broken_image_is_named(
    image_client: TestClient,
    images: dict[str, set[str]],
    damage: Callable[[bytes], object],
    words: list[str],
) -> None:
    first, second, *_ = images
    error = refused(image_client, [first, damage(base64.b64decode(second)), second])
    assert "rows[1]" in error
    assert all(word in error for word in words), error
    assert len(error) < 300
