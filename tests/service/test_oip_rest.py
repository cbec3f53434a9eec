from __future__ import annotations

import asyncio
import gzip
import json
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from models.bundle import Bundle
from models.errors import InvalidInput, Overloaded, Unavailable
from service.dataplane import Dataplane
from service.oip_json import HEADER_LENGTH
from service.oip_rest import WORTH_COMPRESSING
from service.tensors import BYTES, DATATYPES, Tensor
from tests.service.conftest import Gate, app_over, cold_dataplane, counted, serving
from tests.service.oip_bodies import described, in_binary, in_json, numbers, request_body
from tests.service.random_tensors import tensors
from tests.small_bundles import small_bundle, small_image

OUTPUTS = ["labels", "probabilities", "exit", "score", "certified"]
ALL_BINARY = {"binary_data_output": True}


@pytest.fixture
def path(dataplane: Dataplane) -> str:
    return f"/v2/models/{dataplane.name}"


@pytest.fixture(scope="module")
def input_name(dataplane: Dataplane) -> str:
    return dataplane.manifest.inputs[0].name


def answered(response: Any) -> dict[str, np.ndarray]:
    """The output tensors of a response, from JSON or from raw bytes."""
    assert response.status_code == 200, response.text
    length = int(response.headers.get(HEADER_LENGTH, len(response.content)))
    document, raw = json.loads(response.content[:length]), response.content[length:]
    found = {}
    for output in document["outputs"]:
        dtype = DATATYPES[output["datatype"]]
        if "data" in output:
            array = np.array(output["data"], dtype)
        else:
            size = output["parameters"]["binary_data_size"]
            array, raw = np.frombuffer(raw[:size], dtype), raw[size:]
        found[output["name"]] = array.reshape(output["shape"])
    assert raw == b""
    return found


def infer(client: TestClient, path: str, tensor: Tensor, **fields: Any) -> dict[str, np.ndarray]:
    body, headers = request_body([in_json(tensor)], **fields)
    return answered(client.post(f"{path}/infer", content=body, headers=headers))


def refused(response: Any, status: int = 400) -> str:
    assert response.status_code == status, response.text
    assert list(response.json()) == ["error", "request_id"]
    assert len(response.json()["error"]) < 400
    return response.json()["error"]


async def answers_of(plane: Dataplane, rows: np.ndarray) -> dict[str, np.ndarray]:
    prediction = await plane.predict(rows)
    answers = prediction.routed.answers
    return {
        "labels": answers.labels,
        "probabilities": answers.probabilities,
        "exit": prediction.routed.exits,
        "score": answers.score,
        "certified": prediction.certified,
    }


def assert_equal(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert list(found) == list(expected)
    for name, array in found.items():
        np.testing.assert_allclose(array, expected[name], atol=1e-4)


@pytest.mark.parametrize("sent_binary", [False, True])
@pytest.mark.parametrize("wanted_binary", [False, True])
def test_answers_are_those_of_the_dataplane_in_json_and_in_binary(
    client: TestClient,
    dataplane: Dataplane,
    rows: np.ndarray,
    path: str,
    input_name: str,
    sent_binary: bool,
    wanted_binary: bool,
) -> None:
    tensor = numbers(rows[:20], input_name)
    entry = in_binary(tensor) if sent_binary else in_json(tensor, nested=True)
    body, headers = request_body(
        [entry],
        [tensor] if sent_binary else [],
        parameters={"binary_data_output": wanted_binary},
    )
    response = client.post(f"{path}/infer", content=body, headers=headers)
    expected = asyncio.run(answers_of(dataplane, rows[:20]))
    assert_equal(answered(response), expected)
    assert (HEADER_LENGTH in response.headers) == wanted_binary
    media_type = "application/octet-stream" if wanted_binary else "application/json"
    assert response.headers["content-type"] == media_type


def test_a_client_gets_the_outputs_it_asks_for_in_its_order_and_form(
    client: TestClient, rows: np.ndarray, path: str, input_name: str
) -> None:
    tensor = numbers(rows[:3], input_name)
    whole = infer(client, path, tensor)
    assert list(whole) == OUTPUTS
    outputs = [
        {"name": "exit", "parameters": {"binary_data": True}},
        {"name": "labels", "parameters": {"binary_data": False}},
        {"name": "score"},
    ]
    body, _ = request_body([in_json(tensor)], outputs=outputs, parameters=ALL_BINARY)
    response = client.post(f"{path}/infer", content=body)
    found = answered(response)
    assert_equal(found, {name: whole[name] for name in ("exit", "labels", "score")})
    document = json.loads(response.content[: int(response.headers[HEADER_LENGTH])])
    assert ["data" in output for output in document["outputs"]] == [False, True, False]


def test_an_answer_says_whose_it_is(
    client: TestClient, dataplane: Dataplane, rows: np.ndarray, path: str, input_name: str
) -> None:
    body, _ = request_body([in_json(numbers(rows[:1], input_name))], id="a/ü")
    document = client.post(f"{path}/versions/{dataplane.version}/infer", content=body).json()
    assert document["id"] == "a/ü"
    assert document["model_name"] == dataplane.name
    assert document["model_version"] == dataplane.version


@pytest.mark.parametrize(
    ("parameters", "exits"),
    [({"policy": "full"}, {4}), ({"policy": "exit:1"}, {1}), ({"max_exit": 1}, {1})],
)
def test_parameters_are_options(
    client: TestClient,
    rows: np.ndarray,
    path: str,
    input_name: str,
    parameters: dict[str, Any],
    exits: set[int],
) -> None:
    found = infer(client, path, numbers(rows[:8], input_name), parameters=parameters)
    assert set(found["exit"].tolist()) == exits


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"parameters": {"policy": "fast"}}, "policy"),
        ({"parameters": {"polcy": "full"}}, "polcy"),
        ({"parameters": {"sequence_id": 7}}, "sequence_id"),
        ({"outputs": [{"name": "classes"}]}, "classes"),
        ({"outputs": [{"name": "exit"}, {"name": "exit"}]}, "twice"),
    ],
)
def test_what_cannot_be_answered_is_named(
    client: TestClient,
    rows: np.ndarray,
    path: str,
    input_name: str,
    fields: dict[str, Any],
    word: str,
) -> None:
    body, _ = request_body([in_json(numbers(rows[:1], input_name))], **fields)
    assert word in refused(client.post(f"{path}/infer", content=body))


def test_inputs_are_checked_by_their_names(
    client: TestClient, rows: np.ndarray, path: str, input_name: str
) -> None:
    good = in_json(numbers(rows[:1], input_name))
    for inputs, word in (
        ([], "found none"),
        ([good, good], "twice"),
        ([{**good, "name": "wrong"}], "unknown 'wrong'"),
        ([in_json(numbers(rows[:1, 0], input_name))], "shape [1, 32, 32]"),
        ([in_json(Tensor(input_name, rows[:1].astype(np.float64)))], "FP64"),
        ([in_json(numbers(rows[:0], input_name))], "found 0 rows"),
        ([in_json(numbers(np.zeros((65, 1, 32, 32)), input_name))], "found 65 rows"),
    ):
        body, _ = request_body(inputs)
        assert word in refused(client.post(f"{path}/infer", content=body))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e38])
def test_values_without_a_finite_answer_are_refused(
    client: TestClient, rows: np.ndarray, path: str, input_name: str, value: float
) -> None:
    sent = rows[:3].copy()
    sent[1, 0, 4, 4] = value
    if value == 1e38:
        sent[1] = value
    tensor = numbers(sent, input_name)
    body, headers = request_body([in_binary(tensor)], [tensor])
    error = refused(client.post(f"{path}/infer", content=body, headers=headers))
    assert "1" in error


@pytest.mark.parametrize("call", ["infer", "", "ready", "config", "stats"])
@pytest.mark.parametrize("place", ["nobody", "DIGITS", "{name}/versions/1", "nobody/versions/1"])
def test_unknown_models_and_versions_are_not_found(
    client: TestClient, dataplane: Dataplane, call: str, place: str
) -> None:
    url = f"/v2/models/{place.format(name=dataplane.name)}/{call}".rstrip("/")
    response = client.post(url, content=b"{}") if call == "infer" else client.get(url)
    assert dataplane.name in refused(response, 404)


def test_a_server_says_what_it_is(client: TestClient) -> None:
    document = client.get("/v2").json()
    assert document["name"] == "offramp"
    assert {"binary_tensor_data", "statistics"} <= set(document["extensions"])
    assert client.get("/v2/health/live").json() == {"live": True}
    assert client.get("/v2/health/ready").json() == {"ready": True}


def test_a_model_says_what_it_takes_and_gives(
    client: TestClient, dataplane: Dataplane, path: str, input_name: str
) -> None:
    labels = len(dataplane.manifest.labels)
    for url in (path, f"{path}/versions/{dataplane.version}"):
        document = client.get(url).json()
        assert document["name"] == dataplane.name
        assert document["versions"] == [dataplane.version]
        assert document["inputs"] == [
            {"name": input_name, "datatype": "FP32", "shape": [-1, 1, 32, 32]}
        ]
        assert [output["name"] for output in document["outputs"]] == OUTPUTS
        assert document["outputs"][1]["shape"] == [-1, labels]
        assert client.get(f"{url}/ready").json() == {"name": dataplane.name, "ready": True}


def test_configuration_and_statistics_have_numbers_where_tritons_have(
    client: TestClient, dataplane: Dataplane, rows: np.ndarray, path: str, input_name: str
) -> None:
    config = client.get(f"{path}/config").json()
    assert config["max_batch_size"] == 64
    assert config["input"][0]["dims"] == [1, 32, 32]
    assert config["input"][0]["data_type"] == "TYPE_FP32"
    before = client.get(f"{path}/stats").json()["model_stats"][0]
    infer(client, path, numbers(rows[:5], input_name))
    (after,) = client.get("/v2/models/stats").json()["model_stats"]
    assert after["name"] == dataplane.name
    assert after["inference_count"] - before["inference_count"] == 5
    success, earlier = (entry["inference_stats"]["success"] for entry in (after, before))
    assert success["count"] - earlier["count"] == 1
    assert success["ns"] > earlier["ns"]


def test_the_index_lists_models_and_their_state(client: TestClient, dataplane: Dataplane) -> None:
    expected = {
        "name": dataplane.name,
        "version": dataplane.version,
        "state": "READY",
        "reason": "",
    }
    for response in (
        client.get("/v2/repository/index"),
        client.post("/v2/repository/index"),
        client.post("/v2/repository/index", content=b'{"ready": true}'),
    ):
        assert response.json() == [expected]
    assert "ready" in refused(client.post("/v2/repository/index", content=b'{"ready": 1}'))


def test_a_server_that_is_not_ready_is_live_and_says_why(bundle: Bundle) -> None:
    plane = cold_dataplane(bundle)
    with TestClient(app_over(plane)) as client:
        assert client.get("/v2/health/live").status_code == 200
        for url in ("/v2/health/ready", f"/v2/models/{plane.name}/ready"):
            assert "warming up" in refused(client.get(url), 503)
        assert client.get(f"/v2/models/{plane.name}").status_code == 200
        assert client.get("/v2/repository/index").json()[0]["state"] == "LOADING"
        only_ready = client.post("/v2/repository/index", content=b'{"ready": true}')
        assert only_ready.json() == []
    plane.close()


@pytest.mark.parametrize("change", ["load", "unload"])
def test_models_are_not_changed_by_clients_unless_that_is_allowed(
    client: TestClient, dataplane: Dataplane, change: str
) -> None:
    url = f"/v2/repository/models/{dataplane.name}/{change}"
    assert "OFFRAMP_REPOSITORY_CALLS" in refused(client.post(url), 403)
    assert dataplane.ready


def test_a_model_is_loaded_as_its_bundle_says_or_not_at_all(dataplane: Dataplane) -> None:
    with TestClient(app_over(dataplane, repository_calls=True)) as client:
        url = f"/v2/repository/models/{dataplane.name}/load"
        for body, status in (
            (b'{"parameters": {"config": "{}"}}', 501),
            (b'{"parameters": {"file:1/model.onnx": "AA=="}}', 501),
            (b'{"parameters": []}', 400),
            (b"{", 400),
        ):
            refused(client.post(url, content=body), status)
        refused(client.post("/v2/repository/models/nobody/load"), 404)
        refused(client.post("/v2/repository/models/nobody/unload"), 404)
        assert dataplane.ready


async def test_an_unloaded_model_answers_nothing(bundle: Bundle, rows: np.ndarray) -> None:
    async with serving(bundle) as plane:
        with TestClient(app_over(plane, repository_calls=True)) as client:
            body = b'{"parameters": {"unload_dependents": false}}'
            url = f"/v2/repository/models/{plane.name}/unload"
            response = client.post(url, content=body)
            assert (response.status_code, response.content) == (200, b"")
            sent, _ = request_body([in_json(numbers(rows[:1]))])
            for refusal in (
                client.post(f"/v2/models/{plane.name}/infer", content=sent),
                client.get(f"/v2/models/{plane.name}/ready"),
                client.get("/v2/health/ready"),
            ):
                assert "loaded" in refused(refusal, 503)
            assert client.get("/v2/models/stats").json() == {"model_stats": []}


@pytest.mark.parametrize(
    "url",
    [
        "/v2/systemsharedmemory/status",
        "/v2/cudasharedmemory/region/a/register",
        "/v2/trace/setting",
        "/v2/models/digits/trace/setting",
        "/v2/logging",
    ],
)
def test_extensions_that_are_not_there_say_so(client: TestClient, url: str) -> None:
    assert "offramp has no shared memory" in refused(client.get(url), 501)
    assert "offramp has no shared memory" in refused(client.post(url, content=b"{}"), 501)


@pytest.mark.parametrize(
    ("encoding", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress)]
)
def test_a_request_may_be_compressed(
    client: TestClient, rows: np.ndarray, path: str, input_name: str, encoding: str, pack: Any
) -> None:
    tensor = numbers(rows[:4], input_name)
    body, headers = request_body([in_binary(tensor)], [tensor])
    headers["Content-Encoding"] = encoding
    response = client.post(f"{path}/infer", content=pack(body), headers=headers)
    assert_equal(answered(response), infer(client, path, tensor))
    bomb = pack(bytes(2**24))
    assert len(bomb) < 2**17
    refused(client.post(f"{path}/infer", content=bomb, headers=headers), 413)
    refused(client.post(f"{path}/infer", content=pack(body)[:-9], headers=headers))


@pytest.mark.parametrize("accepted", ["gzip", "deflate"])
def test_a_large_answer_is_compressed_where_the_client_takes_it(
    client: TestClient, rows: np.ndarray, path: str, input_name: str, accepted: str
) -> None:
    for count, encoding in ((64, accepted), (1, None)):
        tensor = numbers(rows[:count], input_name)
        body, _ = request_body([in_json(tensor)])
        headers = {"Accept-Encoding": accepted}
        response = client.post(f"{path}/infer", content=body, headers=headers)
        assert (len(response.content) >= WORTH_COMPRESSING) == (encoding is not None)
        assert response.headers.get("content-encoding") == encoding
        assert_equal(answered(response), infer(client, path, tensor))  # the test client inflates


def test_a_body_over_the_limit_is_refused(client: TestClient, path: str) -> None:
    assert "1048576 bytes" in refused(client.post(f"{path}/infer", content=bytes(2**20 + 1)), 413)


def test_mistakes_are_counted(bundle: Bundle) -> None:
    plane = cold_dataplane(bundle)
    with TestClient(app_over(plane)) as client:
        url = f"/v2/models/{plane.name}/infer"
        client.post(url, content=b"{")
        client.post(url, content=bytes(2**20 + 1))
        lines = client.get("/metrics").text.splitlines()
    assert 'offramp_requests_total{model="digits",outcome="invalid_input"} 1.0' in lines
    assert 'offramp_requests_total{model="digits",outcome="payload_too_large"} 1.0' in lines
    plane.close()


@pytest.mark.parametrize(
    ("error", "status", "retry_after"),
    [
        (Overloaded("full", "wait", 2.1), 429, "3"),
        (Unavailable("stopping"), 503, "1"),
        (InvalidInput("bad"), 400, None),
        (RuntimeError("secret"), 500, None),
    ],
)
def test_errors_of_the_engine_have_their_status(
    client: TestClient,
    rows: np.ndarray,
    path: str,
    input_name: str,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    status: int,
    retry_after: str | None,
) -> None:
    async def refuse(*_: object) -> None:
        raise error

    monkeypatch.setattr("service.engine.Engine.run", refuse)
    body, _ = request_body([in_json(numbers(rows[:1], input_name))])
    response = client.post(f"{path}/infer", content=body)
    assert "secret" not in refused(response, status)
    assert response.headers.get("retry-after") == retry_after


async def test_a_client_that_leaves_takes_its_rows_along(
    bundle: Bundle, rows: np.ndarray, gates: list[Gate], input_name: str
) -> None:
    async with serving(bundle) as plane:
        gates.append(Gate(stage=2))
        parameters = {"policy": "full"}
        body, _ = request_body([in_json(numbers(rows[:5], input_name))], parameters=parameters)
        gone = asyncio.Event()
        messages = [{"type": "http.request", "body": body, "more_body": False}]
        sent: list[Any] = []

        async def receive() -> Any:
            if messages:
                return messages.pop()
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message)

        path = f"/v2/models/{plane.name}/infer"
        scope = {"type": "http", "method": "POST", "path": path, "headers": []}
        call = asyncio.create_task(app_over(plane)(scope, receive, send))
        await asyncio.to_thread(gates[0].reached.wait, 60)
        gone.set()
        await asyncio.wait_for(call, 30)
        assert counted(plane.metrics, "rows_total", outcome="cancelled") == 5
        assert sent[0]["status"] == 499
        gates[0].opened.set()


@pytest.fixture(scope="module", params=["image", "text"])
def small(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[TestClient, Dataplane, list[bytes]]]:
    """A client of a server of images or texts, with three good raw rows and its model's name."""
    kind = request.param
    bundle = small_bundle(tmp_path_factory.mktemp("small") / kind, kind)
    plane = cold_dataplane(bundle)
    asyncio.run(plane.warm_up())
    assert plane.ready, plane.reason
    rows = [small_image(seed=seed) for seed in range(3)]
    if kind == "text":
        rows = [b"w1 w2", "wört".encode(), b"w3 " * 20]
    with TestClient(app_over(plane), raise_server_exceptions=False) as client:
        yield client, plane, rows
    plane.close()


@pytest.mark.parametrize("shape", [(3,), (3, 1)])
def test_raw_rows_come_as_bytes(small: Any, shape: tuple[int, ...]) -> None:
    client, plane, rows = small
    kind = plane.manifest.preprocessing.kind
    array = np.empty(3, object)
    array[:] = rows
    tensor = Tensor(kind, array.reshape(shape))
    expected = asyncio.run(
        answers_of(plane, [row.decode() for row in rows] if kind == "text" else rows)
    )
    path = f"/v2/models/{plane.name}"
    body, headers = request_body([in_binary(tensor)], [tensor])
    assert_equal(answered(client.post(f"{path}/infer", content=body, headers=headers)), expected)
    if kind == "text":
        assert_equal(infer(client, path, tensor), expected)
    metadata = client.get(path).json()["inputs"]
    assert {"name": kind, "datatype": BYTES, "shape": [-1]} in metadata


def test_a_bad_raw_row_is_named_and_a_good_request_answered_after(small: Any) -> None:
    client, plane, rows = small
    path = f"/v2/models/{plane.name}"
    for sent in ([*rows, b"\xff\xfe"], rows):
        array = np.empty(len(sent), object)
        array[:] = sent
        tensor = Tensor(plane.manifest.preprocessing.kind, array)
        body, headers = request_body([in_binary(tensor)], [tensor])
        response = client.post(f"{path}/infer", content=body, headers=headers)
        if sent is rows:
            assert len(answered(response)["exit"]) == 3
        else:
            error = refused(response)
            assert "row 3" in error or "rows[3]" in error


any_client = settings(
    deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
bodies = st.binary(max_size=60) | st.builds(
    lambda entries, raw: request_body(entries, raw)[0],
    st.lists(tensors().map(in_binary) | tensors().map(described), max_size=3),
    st.lists(tensors(), max_size=3),
)


@any_client
@given(
    bodies,
    st.none() | st.integers(-3, 400).map(str),
    st.sampled_from([None, "gzip", "deflate", "br"]),
    st.booleans(),
)
def test_nothing_a_client_sends_is_an_internal_error(
    client: TestClient,
    rows: np.ndarray,
    path: str,
    input_name: str,
    body: bytes,
    header: str | None,
    encoding: str | None,
    packed: bool,
) -> None:
    headers = {HEADER_LENGTH: header} if header is not None else {}
    if encoding:
        headers["Content-Encoding"] = encoding
    content = gzip.compress(body) if packed else body
    refusal = client.post(f"{path}/infer", content=content, headers=headers)
    assert 400 <= refusal.status_code < 500, refusal.text
    assert list(refusal.json()) == ["error", "request_id"]
    assert len(infer(client, path, numbers(rows[:1], input_name))["exit"]) == 1


@any_client
@given(st.data())
def test_rows_answered_together_are_answered_as_alone(
    client: TestClient,
    rows: np.ndarray,
    path: str,
    input_name: str,
    data: st.DataObject,
) -> None:
    full = {"policy": "full"}  # a row near a threshold may leave elsewhere in other company
    places = data.draw(st.lists(st.integers(0, 99), min_size=1, max_size=8))
    together = infer(client, path, numbers(rows[places], input_name), parameters=full)
    place = data.draw(st.integers(0, len(places) - 1))
    alone = infer(client, path, numbers(rows[[places[place]]], input_name), parameters=full)
    assert_equal(alone, {name: array[[place]] for name, array in together.items()})
