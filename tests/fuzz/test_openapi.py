"""Requests that schemathesis makes up from the service's own description."""

from __future__ import annotations

import pytest
import schemathesis
from hypothesis import given
from hypothesis import strategies as st
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance

from tests.fuzz.rounds import Repeat, any_request
from tests.fuzz.target import SECONDS, Target

pytestmark = pytest.mark.slow

BEYOND_A_SCHEMA = ("no finite answer", "no image that can be read", "as base64", "no bytes")
"""Which sums of numbers are too large, and which texts are images, is not for it to tell."""


@pytest.mark.parametrize("mode", list(GenerationMode))
def test_the_service_does_what_its_description_says(
    target: Target, mode: GenerationMode, repeat: Repeat
) -> None:
    schema = schemathesis.openapi.from_url(f"{target.url}/openapi.json")
    strategies = {
        found.ok().path: found.ok().as_strategy(generation_mode=mode)
        for found in schema.get_all_operations()
    }
    predicting = strategies.pop("/predict")

    @any_request
    @given(st.one_of(predicting, predicting, predicting, *strategies.values()))
    def round_(case: Case) -> None:
        response = case.call(timeout=SECONDS)
        # a deadline that nobody could meet is the one thing that the server may run late for
        assert response.status_code < 500 or response.status_code == 504, response.text
        excluded = [not_a_server_error]
        if any(words in response.text for words in BEYOND_A_SCHEMA):
            excluded.append(positive_data_acceptance)
        if case.media_type == "multipart/form-data":
            # all of it is text: 0 and "0" are the same there, and an empty list is not even sent
            excluded.append(negative_data_rejection)
        case.validate_response(response, excluded_checks=excluded)
        target.check_answers()

    repeat(round_)
