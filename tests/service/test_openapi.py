from __future__ import annotations

import asyncio
import base64
import json
import math
from collections.abc import Iterator
from typing import Any

import jsonschema_rs
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from schemathesis import openapi
from starlette.testclient import TestClient

from models.bundle import Bundle
from service.openapi import TOO_LARGE, describe
from service.schema import request_model
from service.settings import Settings
from tests.service.conftest import app_over, cold_dataplane
from tests.small_bundles import KINDS, LABELS, WIDTH, small_bundle, small_image

KEYS = "/run/offramp/keys.txt"
any_client = settings(
    deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(scope="module", params=KINDS)
def small(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return small_bundle(tmp_path_factory.mktemp("bundles") / request.param, request.param)


@pytest.fixture(scope="module")
def client(small: Bundle) -> Iterator[TestClient]:
    plane = cold_dataplane(small)
    asyncio.run(plane.warm_up())
    with TestClient(app_over(plane), raise_server_exceptions=False) as client:
        yield client
    plane.close()


@pytest.fixture
def document(client: TestClient) -> dict[str, Any]:
    return client.get("/openapi.json").json()


def validator(document: dict[str, Any], name: str) -> Any:
    """Of one of the document's schemas."""
    whole = {"$ref": f"#/components/schemas/{name}", "components": document["components"]}
    return jsonschema_rs.Draft202012Validator(whole)


def good_row(bundle: Bundle) -> Any:
    kind = bundle.manifest.preprocessing.kind
    if kind == "image":
        return base64.b64encode(small_image()).decode()
    return "w1 w2" if kind == "text" else [0.5, -1.0, 2.0, 3.0, 0.25, 0.0]


def described(bundle: Bundle, **changed: Any) -> dict[str, Any]:
    manifest = bundle.manifest
    return describe(manifest, request_model(manifest, 64), Settings(max_rows=64, **changed))


def test_it_is_an_openapi_document(document: dict[str, Any]) -> None:
    openapi.from_dict(document).validate()
    assert document["openapi"] == "3.1.0"


def test_every_path_in_it_is_served(client: TestClient, document: dict[str, Any]) -> None:
    for path, methods in document["paths"].items():
        for method in methods:
            assert client.request(method, path).status_code not in (404, 405), path


def test_answers_follow_their_schema(
    client: TestClient, small: Bundle, document: dict[str, Any]
) -> None:
    for fields in ({}, {"all_exits": True}, {"policy": "exit:1", "max_exit": 1}):
        body = {"rows": [good_row(small)] * 2, **fields}
        validator(document, "PredictRequest").validate(body)
        answer = client.post("/predict", json=body).json()
        validator(document, "PredictResponse").validate(answer)
        for row in answer["rows"]:
            assert len(row["probabilities"]) == LABELS
            assert 0 < row["milliseconds"] <= answer["milliseconds"]


def test_lines_of_a_stream_follow_their_schema(
    client: TestClient, small: Bundle, document: dict[str, Any]
) -> None:
    body = {"rows": [good_row(small)] * 3, "stream": True}
    lines = client.post("/predict", json=body).text.splitlines()
    for line in lines:
        validator(document, "StreamedRow").validate(json.loads(line))
    assert len(lines) == 3


def test_errors_follow_their_schema(client: TestClient, document: dict[str, Any]) -> None:
    response = client.post("/predict", json={"rows": []})
    assert str(response.status_code) in document["paths"]["/predict"]["post"]["responses"]
    validator(document, "Error").validate(response.json())


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2),
    max_leaves=3,
)
option_values = st.fixed_dictionaries(
    {},
    optional={
        "policy": st.sampled_from(["certified", "full", "exit:1", "exit:3", "exit:4"])
        | json_values,
        "max_exit": st.sampled_from([-1, 0, 1, 2.0, 2.5, 3, 4]) | json_values,
        "deadline_ms": st.floats(1000, 4e6) | json_values,
        "priority": st.sampled_from(["interactive", "batch", "shadow"]) | json_values,
        "all_exits": json_values,
        "stream": json_values,
        "other": json_values,
    },
)


@any_client
@given(option_values)
def test_options_are_taken_where_the_document_says_so(
    client: TestClient, small: Bundle, document: dict[str, Any], fields: dict[str, Any]
) -> None:
    body = {"rows": [good_row(small)], **fields}
    valid = validator(document, "PredictRequest").is_valid(body)
    response = client.post("/predict", content=json.dumps(body))
    assert (response.status_code != 400) == valid, response.text
    assert str(response.status_code) in document["paths"]["/predict"]["post"]["responses"]


numbers = (
    st.floats(width=32, allow_nan=False, allow_infinity=False)
    | st.integers(-(10**50), 10**50)
    | json_values
)


@pytest.fixture(scope="module")
def number_client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    bundle = small_bundle(tmp_path_factory.mktemp("bundles") / "numbers", "numbers")
    plane = cold_dataplane(bundle)
    asyncio.run(plane.warm_up())
    with TestClient(app_over(plane), raise_server_exceptions=False) as client:
        yield client
    plane.close()


@any_client
@example(rows=[[TOO_LARGE] * WIDTH])
@example(rows=[[math.nextafter(TOO_LARGE, 0)] * WIDTH])
@given(rows=st.lists(st.lists(numbers, min_size=5, max_size=7), max_size=2))
def test_rows_of_numbers_are_taken_where_the_document_says_so(
    number_client: TestClient, rows: list[list[Any]]
) -> None:
    document = number_client.get("/openapi.json").json()
    valid = validator(document, "PredictRequest").is_valid({"rows": rows})
    response = number_client.post("/predict", content=json.dumps({"rows": rows}))
    # no schema can tell which sums of large numbers are too large
    refused = response.status_code == 400 and "no finite answer" not in response.text
    assert refused != valid, response.text


def test_a_form_is_described_for_images_only(small: Bundle) -> None:
    content = described(small)["paths"]["/predict"]["post"]["requestBody"]["content"]
    forms = ["multipart/form-data"] if small.manifest.preprocessing.kind == "image" else []
    assert [*content] == ["application/json", *forms]


def test_keys_are_asked_for_where_there_are_some(small: Bundle) -> None:
    assert "security" not in described(small)
    locked = described(small, keys_file=KEYS)
    openapi.from_dict(locked).validate()
    assert locked["security"] == [{"key": []}]
    assert locked["paths"]["/v2/health/live"]["get"]["security"] == []
    assert "401" in locked["paths"]["/predict"]["post"]["responses"]
    assert KEYS not in json.dumps(locked)


def test_without_exits_only_the_last_may_be_asked_for(small: Bundle) -> None:
    validates = validator(described(small, mode="monolith"), "PredictRequest").is_valid
    assert validates({"rows": [good_row(small)], "policy": "exit:3", "max_exit": 3})
    assert not validates({"rows": [good_row(small)], "policy": "exit:1"})
    assert not validates({"rows": [good_row(small)], "max_exit": 2})
