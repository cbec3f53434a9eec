from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from models.runtime import StageRuntime, at_exits
from service.dataplane import Dataplane


def predict(client: TestClient, rows: Any, **fields: Any) -> dict[str, Any]:
    response = client.post("/predict", json={"rows": rows, **fields})
    assert response.status_code == 200, response.text
    return response.json()


def refused(client: TestClient, content: bytes | str, status: int = 400) -> str:
    response = client.post("/predict", content=content)
    assert response.status_code == status, response.text
    assert list(response.json()) == ["error"]
    return response.json()["error"]


def test_answers_are_those_of_the_offline_policy(
    client: TestClient, dataplane: Dataplane, runtime: StageRuntime, rows: np.ndarray
) -> None:
    sent = rows[:64]
    answers = runtime.all_exits((sent,))
    exits = dataplane.manifest.policy.route([exit_answers.score for exit_answers in answers])
    expected = at_exits(answers, exits)
    assert len(set(exits)) > 1
    body = predict(client, sent.tolist())
    names = np.array(dataplane.manifest.labels)
    for row, answer in enumerate(body["rows"]):
        assert answer["exit"] == exits[row]
        assert answer["exits"] == 4
        assert answer["certified"] is True
        assert answer["score"] == pytest.approx(expected.score[row], abs=1e-4)
        assert list(answer["probabilities"].values()) == pytest.approx(
            expected.probabilities[row], abs=1e-4
        )
        listed = [label["name"] for label in answer["labels"]]
        assert set(listed) == set(names[expected.labels[row]])
        probabilities = [label["probability"] for label in answer["labels"]]
        assert probabilities == sorted(probabilities, reverse=True)


@pytest.mark.parametrize(
    ("policy", "exits", "certified"),
    [("full", {4}, True), ("exit:1", {1}, False), ("exit:4", {4}, True)],
)
def test_a_request_may_choose_its_policy(
    client: TestClient, rows: np.ndarray, policy: str, exits: set[int], certified: bool
) -> None:
    body = predict(client, rows[:8].tolist(), policy=policy)
    assert {row["exit"] for row in body["rows"]} == exits
    assert {row["certified"] for row in body["rows"]} == {certified}


def with_value(rows: np.ndarray, text: str) -> str:
    """A body whose third row holds `text` in the place of one number."""
    sent = rows[:4].copy()
    sent[2, 0, 5, 7] = 0.123456789
    return json.dumps({"rows": sent.tolist()}).replace("0.12345679104328156", text, 1)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("NaN", "finite number"),
        ("Infinity", "finite number"),
        ("-Infinity", "finite number"),
        ("1e999", "finite number"),
        ('"0.5"', "valid number"),
        ("true", "valid number"),
        ("null", "valid number"),
        ("[]", "valid number"),
    ],
)
def test_a_bad_value_is_named_with_its_place(
    client: TestClient, rows: np.ndarray, text: str, expected: str
) -> None:
    error = refused(client, with_value(rows, text))
    assert "rows[2][0][5][7]" in error
    assert expected in error


def test_a_number_too_large_for_the_model_is_refused(client: TestClient, rows: np.ndarray) -> None:
    error = refused(client, with_value(rows, "1e39"))
    assert "rows[2]: found inf at position [0, 5, 7]" in error


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("", ["body", "JSON"]),
        ("{", ["body", "JSON"]),
        ("[1]", ["body", "found [1]", "object"]),
        ("3", ["body", "found 3", "object"]),
        ("{}", ["rows", "missing"]),
        ('{"rows": 3}', ["rows", "found 3", "array"]),
        ('{"rows": []}', ["rows", "found 0", "at least 1"]),
        ('{"rows": [[[[0.5]]]]}', ["rows[0][0]", "found 1", "at least 32"]),
        ('{"rows": [[]], "extra": 1}', ["rows[0]", "found 0"]),
        ("[" * 10_000, ["body", "JSON"]),
        ('{"rows": ' + "[" * 10_000, ["body", "JSON"]),
        (b"\xff\xfe\x00", ["body", "JSON"]),
    ],
)
def test_a_bad_body_is_explained(client: TestClient, body: str | bytes, words: list[str]) -> None:
    error = refused(client, body)
    assert all(word in error for word in words), error
    assert len(error) < 300


def test_more_rows_than_the_limit_are_refused(client: TestClient, rows: np.ndarray) -> None:
    error = refused(client, json.dumps({"rows": np.zeros((65, 1, 32, 32)).tolist()}))
    assert "rows" in error
    assert "at most 64" in error


def test_an_unknown_field_is_named(client: TestClient, rows: np.ndarray) -> None:
    error = refused(client, json.dumps({"rows": rows[:1].tolist(), "polcy": "full"}))
    assert "polcy" in error


@pytest.mark.parametrize("policy", ["", "fast", "exit:0", "exit:5", "exit:-1", "exit:1e9"])
def test_an_unknown_policy_is_answered_with_the_known_ones(
    client: TestClient, rows: np.ndarray, policy: str
) -> None:
    error = refused(client, json.dumps({"rows": rows[:1].tolist(), "policy": policy}))
    assert all(word in error for word in ("policy", "certified", "full", "exit:<k>", "1 to 4"))


def test_a_body_over_the_limit_is_refused(client: TestClient) -> None:
    assert "1048576 bytes" in refused(client, b" " * (2**20 + 1), status=413)


def test_a_body_without_length_is_refused_when_it_grows_over_the_limit(
    client: TestClient,
) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(17):
            yield b" " * 65536

    response = client.post("/predict", content=chunks())
    assert response.status_code == 413


def test_unknown_paths_and_methods_answer_in_json(client: TestClient) -> None:
    assert client.get("/nowhere").json() == {"error": "Not Found"}
    assert client.get("/predict").status_code == 405


@pytest.mark.parametrize("value", [1e38, -3.4e38])
def test_values_that_make_the_model_overflow_are_refused(
    client: TestClient, rows: np.ndarray, value: float
) -> None:
    sent = rows[:3].astype(float)
    sent[1] = value
    error = refused(client, json.dumps({"rows": sent.tolist()}))
    assert "no finite answer to the values of row 1" in error


@pytest.mark.parametrize(
    "body",
    [
        "{" + ",".join(f'"k{i}": 0' for i in range(60_000)) + ', "rows": [[[[0]]]]}',
        '{"rows": [' + ",".join(['"a"'] * 200_000) + "]}",
        '{"rows": [[[[' + ",".join(['"a"'] * 200_000) + "]]]]}",
        '{"rows": [], "' + "k" * 900_000 + '": 1}',
        '{"rows": [], "policy": "' + "k" * 900_000 + '"}',
    ],
    ids=["many fields", "many rows", "many values", "long field", "long policy"],
)
def test_a_body_full_of_mistakes_is_answered_with_the_first(client: TestClient, body: str) -> None:
    assert len(refused(client, body)) < 300


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=10,
)
any_client = settings(
    deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@any_client
@given(st.binary(max_size=60) | json_values | st.fixed_dictionaries({"rows": json_values}))
def test_nothing_a_client_sends_is_an_internal_error(client: TestClient, body: Any) -> None:
    content = body if isinstance(body, bytes) else json.dumps(body)
    assert 400 <= client.post("/predict", content=content).status_code < 500


@any_client
@given(
    place=st.tuples(st.integers(0, 1), st.integers(0, 31), st.integers(0, 31)), value=st.floats()
)
def test_no_value_in_a_well_formed_request_is_an_internal_error(
    client: TestClient, rows: np.ndarray, place: tuple[int, int, int], value: float
) -> None:
    sent = rows[:2].astype(float)
    sent[place[0], 0, place[1], place[2]] = value
    response = client.post("/predict", content=json.dumps({"rows": sent.tolist()}))
    assert response.status_code in (200, 400), response.text
    if response.status_code == 200:
        assert all(0 <= row["score"] <= 1 for row in response.json()["rows"])


def test_metrics_count_requests_rows_and_exits(
    client: TestClient, dataplane: Dataplane, rows: np.ndarray
) -> None:
    predict(client, rows[:5].tolist(), policy="full")
    predict(client, rows[:3].tolist(), policy="exit:1")
    refused(client, "{")
    client.post("/predict", content=b" " * (2**20 + 1))
    lines = client.get("/metrics").text.splitlines()
    assert "offramp_rows_total 8.0" in lines
    assert 'offramp_exits_total{exit="4"} 5.0' in lines
    assert 'offramp_exits_total{exit="1"} 3.0' in lines
    assert 'offramp_requests_total{outcome="ok"} 2.0' in lines
    assert 'offramp_requests_total{outcome="invalid_input"} 1.0' in lines
    assert 'offramp_requests_total{outcome="payload_too_large"} 1.0' in lines
    assert 'offramp_stage_seconds_count{stage="1"} 2.0' in lines
    assert 'offramp_stage_seconds_count{stage="4"} 1.0' in lines
    assert "offramp_queue_rows 0.0" in lines
