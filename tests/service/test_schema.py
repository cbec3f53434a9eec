from __future__ import annotations

import json

import numpy as np

from models.runtime import Answers
from service.prediction import Prediction
from service.request import Left, Routed
from service.schema import response_body
from tests.manifests import full_manifest

MANIFEST = full_manifest(labels=3, exits=3)


def answers(probability: float, scores: list[float]) -> Answers:
    probabilities = np.full((len(scores), 3), probability, np.float32)
    return Answers(probabilities, probabilities > 0.5, np.array(scores, np.float32))


def test_a_row_lists_the_exits_that_it_came_to_and_no_others() -> None:
    passed = {1: answers(0.25, [0.5, 0.5]), 2: answers(0.75, [np.nan, 0.5])}
    exits = np.array([1, 2])
    left = np.array([Left.OVERLOAD, Left.DEADLINE])
    routed = Routed(np.arange(2), answers(0.75, [0.5, 0.5]), exits, left, np.zeros(2))
    prediction = Prediction(routed, np.array([True, False]), -1.5, 0.0, passed, exits)
    body = json.loads(json.dumps(response_body(prediction, MANIFEST), allow_nan=False))
    first, second = body["rows"]
    assert [entry["exit"] for entry in first["all_exits"]] == [1]
    assert [entry["exit"] for entry in second["all_exits"]] == [1, 2]
    assert [len(entry["labels"]) for entry in second["all_exits"]] == [0, 3]
    assert (first["left"], second["left"]) == ("overload", "deadline")
    assert (first["certified"], second["certified"]) == (True, False)
