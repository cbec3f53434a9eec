from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.datastructures import Headers
from starlette.testclient import TestClient

from models.errors import InvalidInput
from service.multipart import MAX_TEXT_BYTES, read_form
from tests.service.conftest import app_over, cold_dataplane
from tests.small_bundles import small_bundle, small_image

BOUNDARY = "multipart/form-data; boundary=b"
MAX_ROWS = 6


def read(content_type: str, body: bytes) -> tuple[list[bytes], dict[str, str]]:
    return asyncio.run(read_form(Headers({"content-type": content_type}), body, MAX_ROWS))


def encoded(files: list[tuple[str, Any]], texts: dict[str, str]) -> tuple[str, bytes]:
    request = httpx.Request("POST", "http://server", files=files, data=texts)
    return request.headers["content-type"], request.read()


def part(name: str, content: bytes, filename: str | None = None) -> bytes:
    of_file = f'; filename="{filename}"' if filename is not None else ""
    head = f'--b\r\nContent-Disposition: form-data; name="{name}"{of_file}\r\n\r\n'
    return head.encode() + content + b"\r\n"


END = b"--b--\r\n"
A_FILE = part("image", b"bytes", "a.png")


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(["image", "images"]), st.binary()), min_size=1, max_size=6),
    st.dictionaries(st.sampled_from(["policy", "max_exit", "other"]), st.text(max_size=40)),
)
def test_what_a_client_encodes_is_read_in_its_order(
    files: list[tuple[str, bytes]], texts: dict[str, str]
) -> None:
    sent = [(name, (f"{place}.png", content)) for place, (name, content) in enumerate(files)]
    content_type, body = encoded(sent, texts)
    assert read(content_type, body) == ([content for _, content in files], texts)


@settings(deadline=None)
@given(st.integers(0, 10_000))
def test_a_form_that_is_cut_short_is_refused(cut: int) -> None:
    content_type, body = encoded([("image", ("a.png", bytes(300)))] * 3, {"policy": "full"})
    end = len(body) - len(b"\r\n")
    with pytest.raises(InvalidInput, match="body: "):
        read(content_type, body[: cut % end])


@settings(deadline=None)
@given(st.lists(st.sampled_from([b"--b", b"\r\n", b"--", b'name="image"', b":", A_FILE, END])))
def test_no_form_is_an_internal_error(pieces: list[bytes]) -> None:
    try:
        files, _ = read(BOUNDARY, b"".join(pieces))
    except InvalidInput:
        return
    assert files


@pytest.mark.parametrize(
    ("content_type", "body", "words"),
    [
        ("multipart/form-data", A_FILE + END, ["body", "boundary", "1 to 6 files"]),
        (BOUNDARY, b"", ["body", "to its end"]),
        (BOUNDARY, b"a text", ["body", "multipart/form-data"]),
        (BOUNDARY, A_FILE, ["body", "to its end"]),
        (BOUNDARY, A_FILE * 7 + END, ["body", "1 to 6 files"]),
        (BOUNDARY, b"".join(part(f"f{k}", b"") for k in range(33)) + END, ["body", "form"]),
        (BOUNDARY, part("policy", b"x" * (MAX_TEXT_BYTES + 1)) + END, ["body", "4096 bytes"]),
        (BOUNDARY, part("policy", b"full") + END, ["image", "no file", "curl -F"]),
        (BOUNDARY, part("image", b"bytes") + END, ["'image'", "a text", "expected a file"]),
        (BOUNDARY, part("photo", b"bytes", "a.png") + END, ["'photo'", "expected a text"]),
        (BOUNDARY, A_FILE + part("policy", b"full") * 2 + END, ["'policy'", "twice"]),
    ],
)
def test_a_bad_form_is_explained(content_type: str, body: bytes, words: list[str]) -> None:
    with pytest.raises(InvalidInput) as raised:
        read(content_type, body)
    assert all(word in str(raised.value) for word in words), raised.value


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    path: Path = tmp_path_factory.mktemp("bundles") / "image"
    plane = cold_dataplane(small_bundle(path, "image"))
    asyncio.run(plane.warm_up())
    with TestClient(app_over(plane), raise_server_exceptions=False) as client:
        yield client
    plane.close()


def predicted(client: TestClient, **sent: Any) -> list[dict[str, Any]]:
    response = client.post("/predict", **sent)
    assert response.status_code == 200, response.text
    return response.json()["rows"]


def test_images_are_answered_as_in_json(client: TestClient) -> None:
    images = [small_image(seed=seed, form=form) for seed, form in enumerate(("PNG", "WEBP", "BMP"))]
    form = predicted(client, files=[("image", image) for image in images])
    rows = [base64.b64encode(image).decode() for image in images]
    for one, other in zip(form, predicted(client, json={"rows": rows}), strict=True):
        assert (one["exit"], one["labels"]) == (other["exit"], other["labels"])
        np.testing.assert_allclose(
            list(one["probabilities"].values()), list(other["probabilities"].values()), atol=1e-5
        )


def test_options_are_fields_of_the_form(client: TestClient) -> None:
    options = {"policy": "full", "max_exit": "2", "all_exits": "true", "deadline_ms": "9e3"}
    (row,) = predicted(client, files={"image": small_image()}, data=options)
    assert row["exit"] == 2
    assert [entry["exit"] for entry in row["all_exits"]] == [1, 2]


def test_a_bare_image_is_one_row_with_its_options_in_the_query(client: TestClient) -> None:
    headers = {"content-type": "image/png"}
    (row,) = predicted(client, content=small_image(), headers=headers, params={"policy": "exit:1"})
    (same,) = predicted(client, files={"image": small_image()}, data={"policy": "exit:1"})
    assert row["exit"] == same["exit"] == 1
    assert row["probabilities"] == pytest.approx(same["probabilities"], abs=1e-5)


def test_a_form_is_streamed_on_request(client: TestClient) -> None:
    files = [("image", small_image(seed=seed)) for seed in range(3)]
    response = client.post("/predict", files=files, data={"stream": "true"})
    assert response.headers["content-type"] == "application/x-ndjson"
    assert len(response.text.splitlines()) == 3


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"max_exit": "two"}, ["max_exit", "'two'", "integer"]),
        ({"max_exit": ""}, ["max_exit", "''", "integer"]),
        ({"max_exit": "4"}, ["max_exit", "found 4", "from 1 to 3"]),
        ({"deadline_ms": "nan"}, ["deadline_ms", "nan", "3600000"]),
        ({"all_exits": "perhaps"}, ["all_exits", "'perhaps'", "boolean"]),
        ({"polcy": "full"}, ["unknown", "'polcy'", "'policy'"]),
        ({"rows": "[]"}, ["unknown", "'rows'"]),
    ],
)
@pytest.mark.parametrize("bare", [False, True])
def test_bad_options_are_answered_with_what_is_allowed(
    client: TestClient, data: dict[str, str], words: list[str], bare: bool
) -> None:
    if bare:
        headers = {"content-type": "image/png"}
        response = client.post("/predict", content=small_image(), headers=headers, params=data)
    else:
        response = client.post("/predict", files={"image": small_image()}, data=data)
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert all(word in error for word in words), error


def test_a_broken_image_is_named_by_its_row(client: TestClient) -> None:
    files = [("image", small_image()), ("image", small_image()[:60])]
    response = client.post("/predict", files=files)
    assert response.status_code == 400
    assert "rows[1]" in response.json()["error"]
