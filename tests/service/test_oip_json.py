from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.errors import InvalidInput
from service.inference import InferRequest
from service.oip_json import HEADER_LENGTH, RestRequest, parse_request, response_body
from service.tensors import BYTES, DATATYPES, Tensor, to_raw
from tests.service.oip_bodies import described, in_binary, in_json, numbers, request_body
from tests.service.random_tensors import assert_same, tensors

IN_JSON = tuple(datatype for datatype in DATATYPES if datatype != "FP16")
X = numbers(np.arange(4).reshape(2, 2))
RAW = to_raw(X.array)


def parsed(body: bytes, headers: dict[str, str]) -> RestRequest:
    return parse_request(body, headers.get(HEADER_LENGTH))


def refusal(body: bytes, header: str | None = None) -> str:
    with pytest.raises(InvalidInput) as caught:
        parse_request(body, header)
    assert len(str(caught.value)) < 300
    return str(caught.value)


@given(st.lists(tensors(IN_JSON) | tensors(), max_size=4), st.data())
def test_inputs_in_json_and_as_raw_bytes_mix_in_one_request(
    sent: list[Tensor], data: st.DataObject
) -> None:
    raw = [t for t in sent if t.datatype == "FP16" or data.draw(st.booleans())]
    inputs = [in_binary(t) if any(t is r for r in raw) else in_json(t) for t in sent]
    found = parsed(*request_body(inputs, raw)).request.inputs
    assert len(found) == len(sent)
    for tensor, expected in zip(found, sent, strict=True):
        assert_same(tensor, expected)


def test_raw_numbers_are_views_of_the_body_where_they_lie_aligned() -> None:
    body, headers = request_body([in_binary(X)], [X])
    document = body[: -len(RAW)]
    padded = document + b" " * (-len(document) % 16) + RAW
    array = parse_request(padded, str(len(padded) - len(RAW))).request.inputs[0].array
    assert np.shares_memory(array, np.frombuffer(padded, np.uint8))
    assert headers == {HEADER_LENGTH: str(len(document))}


def test_a_request_says_what_it_wants_and_how() -> None:
    body, headers = request_body(
        [in_json(X, nested=True)],
        id="seven",
        model_name="digits",
        outputs=[
            {"name": "labels"},
            {"name": "score", "parameters": {"binary_data": False}},
            {"name": "exit", "parameters": {"binary_data": True}},
        ],
        parameters={"policy": "full", "binary_data_output": True},
    )
    asked = parsed(body, headers)
    assert asked.id == "seven"
    assert list(asked.request.outputs) == ["labels", "score", "exit"]
    assert list(asked.binary) == [True, False, True]
    assert asked.request.parameters["policy"] == "full"


def test_what_is_null_is_not_there() -> None:
    inputs = [in_json(X, parameters=None)]
    asked = parsed(*request_body(inputs, id=None, outputs=None, parameters=None))
    assert (asked.id, list(asked.request.outputs), asked.all_binary) == (None, [], False)
    empty = numbers(np.zeros((0, 2)))
    asked = parsed(*request_body([in_binary(empty, data=None)], [empty]))  # as KServe's client does
    assert asked.request.inputs[0].shape == (0, 2)


@pytest.mark.parametrize("header", ["", "-1", "+5", "1.0", "0x10", "٣", "five", " 5", "1e2"])
def test_a_header_that_is_no_number_is_refused(header: str) -> None:
    error = refusal(request_body([in_binary(X)], [X])[0], header)
    assert f"header {HEADER_LENGTH}: found" in error
    assert "whole number" in error


@pytest.mark.parametrize("header", ["0", "10000", "9" * 5000])
def test_a_header_beyond_the_body_is_refused(header: str) -> None:
    body = request_body([in_binary(X)], [X])[0]
    assert f"expected 1 to {len(body)}, the bytes of the body" in refusal(body, header)


@pytest.mark.parametrize(
    ("size", "words"),
    [
        (15, ["input 'x'", "found 15 bytes", "expected 16"]),
        (17, ["input 'x'", "found 16 bytes of raw data left", "expected 17"]),
        (10**30, ["input 'x'", "found 16 bytes of raw data left"]),
        (-16, ["input 'x'", "found binary_data_size -16", "at least 0"]),
        ("16", ["input 'x'", "found binary_data_size '16'", "whole number"]),
        (16.0, ["input 'x'", "found binary_data_size 16.0", "whole number"]),
        (True, ["input 'x'", "found binary_data_size True", "whole number"]),
    ],
)
def test_a_wrong_size_of_raw_data_is_refused_with_the_input(size: Any, words: list[str]) -> None:
    entry = described(X, parameters={"binary_data_size": size})
    body, headers = request_body([entry], [X])
    error = refusal(body, headers[HEADER_LENGTH])
    assert all(word in error for word in words), error


def test_raw_data_without_the_header_are_missed() -> None:
    error = refusal(request_body([in_binary(X)])[0])
    assert "input 'x': found 0 bytes of raw data left for it" in error
    assert HEADER_LENGTH in error


def test_bytes_that_no_input_takes_are_refused() -> None:
    body, headers = request_body([in_binary(X)], [X])
    assert "found 3 bytes behind the last input" in refusal(body + b"abc", headers[HEADER_LENGTH])


def test_an_input_has_its_data_once() -> None:
    both = in_binary(X, data=[0, 1, 2, 3])
    body, headers = request_body([both], [X])
    assert "both data and binary_data_size" in refusal(body, headers[HEADER_LENGTH])
    assert "input 'x': found data None" in refusal(request_body([described(X)])[0])


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", ["no JSON", "line 1 column 0"]),
        (b"{", ["no JSON"]),
        (b"[1]", ["body: found [1]", "object"]),
        (b"null", ["body: found None", "object"]),
        (b"\xff\xfe", ["no JSON"]),
        (b"[" * 10_000, ["nested too deeply"]),
        (b'{"inputs": ' + b"[" * 10_000, ["nested too deeply"]),
        (b'{"a": NaN}', ["no JSON", "line 1 column 7"]),
        (b'{"a": ' + b"1" * 5000 + b"}", ["no JSON"]),
        (b'{"id": "\\ud800"}', ["no JSON"]),
        (b'{"input": []}', ["unknown field 'input'", "inputs"]),
        (b'{"id": 3}', ["request: found id 3", "a text"]),
        (b'{"inputs": {}}', ["found inputs {}", "a list"]),
        (b'{"inputs": [3]}', ["inputs: found 3", "objects"]),
        (b'{"inputs": [{}]}', ["inputs", "without a name"]),
        (b'{"inputs": [{"name": 3}]}', ["inputs: found name 3", "a text"]),
        (b'{"inputs": [{"name": "x", "dtype": "FP32"}]}', ["inputs", "unknown field 'dtype'"]),
        (b'{"inputs": [{"name": "x"}]}', ["input 'x'", "found datatype None"]),
        (b'{"outputs": [{}]}', ["outputs", "without a name"]),
        (b'{"outputs": ["labels"]}', ["outputs: found 'labels'", "objects"]),
        (b'{"outputs": [{"name": "a", "data": []}]}', ["outputs", "unknown field 'data'"]),
        (b'{"parameters": []}', ["found parameters []", "an object"]),
        (b'{"parameters": {"binary_data_output": 1}}', ["binary_data_output 1", "true or false"]),
    ],
)
def test_a_bad_document_is_explained(body: bytes, words: list[str]) -> None:
    error = refusal(body)
    assert all(word in error for word in words), error


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"shared_memory_region": "r", "shared_memory_byte_size": 9}, ["'shared_memory_region'"]),
        ({"shared_memory_byte_size": 9}, ["'shared_memory_byte_size'", "shares no memory"]),
        ({"shared_memory_offset": 9}, ["'shared_memory_offset'", "shares no memory"]),
        ({"classification": 3}, ["'classification'", "probabilities"]),
        ({"content_type": "np"}, ["unknown parameter 'content_type'"]),
    ],
)
def test_parameters_of_tensors_that_mean_something_else_are_refused_by_name(
    parameters: dict[str, Any], words: list[str]
) -> None:
    output = {"name": "labels", "parameters": parameters}
    for body, _ in (
        request_body([in_json(X, parameters=parameters)]),
        request_body([in_json(X)], outputs=[output]),
    ):
        error = refusal(body)
        assert all(word in error for word in words), error


def test_the_form_of_an_output_is_true_or_false() -> None:
    output = {"name": "labels", "parameters": {"binary_data": "yes"}}
    error = refusal(request_body([in_json(X)], outputs=[output])[0])
    assert "output 'labels': found binary_data 'yes', expected true or false" in error


@given(
    st.lists(tensors(tuple(d for d in DATATYPES if d not in (BYTES, "FP16"))), max_size=4),
    st.text(max_size=5) | st.none(),
    st.data(),
)
def test_a_response_is_read_as_what_was_written(
    written: list[Tensor], identity: str | None, data: st.DataObject
) -> None:
    binary = [data.draw(st.booleans()) for _ in written]
    asked = RestRequest(identity, InferRequest([]), binary, all_binary=False)
    body, length = response_body(asked, written, "digits", "12ab")
    document = json.loads(body[:length])
    assert document.get("id") == identity
    assert (document["model_name"], document["model_version"]) == ("digits", "12ab")
    assert (length is None) == (not any(binary))
    place = length or len(body)
    assert len(document["outputs"]) == len(written)
    for output, tensor, is_binary in zip(document["outputs"], written, binary, strict=True):
        if is_binary:
            assert "data" not in output
            end = place + output["parameters"]["binary_data_size"]
            values = np.frombuffer(body[place:end], tensor.array.dtype)
            place = end
        else:
            values = np.array(output["data"], tensor.array.dtype)
        assert (output["name"], output["datatype"]) == (tensor.name, tensor.datatype)
        assert values.reshape(output["shape"]).tolist() == tensor.array.tolist()
    assert place == len(body)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=10,
)
entries = st.fixed_dictionaries(
    {},
    optional={
        "name": st.sampled_from(["x", "labels"]) | json_values,
        "datatype": st.sampled_from(sorted(DATATYPES)) | json_values,
        "shape": st.lists(st.integers(0, 3)) | json_values,
        "data": st.lists(st.integers()) | json_values,
        "parameters": st.fixed_dictionaries(
            {}, optional={"binary_data_size": st.integers(0, 20), "binary_data": st.booleans()}
        )
        | json_values,
    },
)
documents = st.fixed_dictionaries(
    {},
    optional={
        "id": json_values,
        "inputs": st.lists(entries, max_size=3) | json_values,
        "outputs": st.lists(entries, max_size=3) | json_values,
        "parameters": json_values,
    },
)
headers = st.none() | st.text(max_size=4) | st.integers(-5, 300).map(str)


@given(documents | json_values, st.binary(max_size=40), headers, st.booleans())
def test_whatever_is_sent_is_a_request_or_refused(
    document: Any, raw: bytes, header: str | None, right: bool
) -> None:
    content = json.dumps(document).encode()
    try:
        asked = parse_request(content + raw, str(len(content)) if right else header)
    except InvalidInput:
        return
    assert all(isinstance(tensor, Tensor) for tensor in asked.request.inputs)
    assert len(asked.binary) == len(asked.request.outputs)
