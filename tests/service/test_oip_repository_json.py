from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.errors import InvalidInput, OfframpError, Unsupported
from service.oip_repository_json import asks_for_ready, check_change


@pytest.mark.parametrize(
    ("body", "ready"),
    [
        (b"", False),
        (b" \n", False),
        (b"{}", False),
        (b'{"ready": null}', False),
        (b'{"ready": false}', False),
        (b'{"ready": true}', True),
    ],
)
def test_an_index_may_ask_for_models_that_are_ready(body: bytes, ready: bool) -> None:
    assert asks_for_ready(body) is ready


@pytest.mark.parametrize("body", [b"[]", b"{", b'{"ready": 1}', b'{"redy": true}'])
def test_other_questions_are_refused(body: bytes) -> None:
    with pytest.raises(InvalidInput):
        asks_for_ready(body)


@pytest.mark.parametrize(
    "body",
    [b"", b"{}", b'{"parameters": {}}', b'{"parameters": {"unload_dependents": true}}'],
)
def test_what_clients_send_to_load_and_unload_is_taken(body: bytes) -> None:
    check_change(body)


@pytest.mark.parametrize(
    ("body", "error", "word"),
    [
        (b'{"parameters": {"config": "{}"}}', Unsupported, "'config'"),
        (b'{"parameters": {"file:1/m": "AA"}}', Unsupported, "'file:1/m'"),
        (b'{"parameters": 3}', InvalidInput, "parameters 3"),
        (b'{"config": "{}"}', InvalidInput, "unknown field 'config'"),
        (b"nonsense", InvalidInput, "no JSON"),
    ],
)
def test_a_model_is_loaded_as_its_bundle_says(
    body: bytes, error: type[OfframpError], word: str
) -> None:
    with pytest.raises(error, match=word):
        check_change(body)


@given(st.binary(max_size=40))
def test_no_bytes_are_more_than_refused(body: bytes) -> None:
    for read in (asks_for_ready, check_change):
        try:
            read(body)
        except (InvalidInput, Unsupported):
            continue
