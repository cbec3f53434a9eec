from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Any

import numpy as np
import pytest

from models.bundle import Bundle
from models.errors import InvalidInput
from service.dataplane import Dataplane
from service.inference import InferRequest, infer, infer_stream
from service.output_tensors import OUTPUTS, ROW
from service.tensors import Tensor
from tests.service.conftest import Gate, counted, serving


def asked(plane: Dataplane, rows: np.ndarray, *outputs: str, **parameters: Any) -> InferRequest:
    return InferRequest([Tensor(plane.manifest.inputs[0].name, rows)], outputs, parameters)


def by_name(tensors: list[Tensor]) -> dict[str, np.ndarray]:
    return {tensor.name: tensor.array for tensor in tensors}


async def test_answers_are_the_dataplanes(dataplane: Dataplane, rows: np.ndarray) -> None:
    found = by_name(await infer(dataplane, asked(dataplane, rows[:20])))
    prediction = await dataplane.predict(rows[:20])
    assert list(found) == list(OUTPUTS)
    np.testing.assert_array_equal(found["exit"], prediction.routed.exits)
    np.testing.assert_array_equal(found["certified"], prediction.certified)
    np.testing.assert_allclose(
        found["probabilities"], prediction.routed.answers.probabilities, atol=1e-4
    )


async def test_outputs_and_parameters_are_those_of_the_request(
    dataplane: Dataplane, rows: np.ndarray
) -> None:
    request = asked(dataplane, rows[:6], "score", "exit", max_exit=2, policy="full")
    found = by_name(await infer(dataplane, request))
    assert list(found) == ["score", "exit"]
    assert set(found["exit"].tolist()) == {2}


async def test_a_stream_gives_every_row_once_and_the_same_answers(
    dataplane: Dataplane, rows: np.ndarray
) -> None:
    whole = by_name(await infer(dataplane, asked(dataplane, rows[:50])))
    request = asked(dataplane, rows[:50], "exit", "probabilities")
    parts = [by_name(part) async for part in infer_stream(dataplane, request)]
    assert len(parts) > 1
    assert all(list(part) == ["exit", "probabilities", ROW] for part in parts)
    assert sorted(np.concatenate([part[ROW] for part in parts])) == list(range(50))
    for part in parts:
        np.testing.assert_array_equal(part["exit"], whole["exit"][part[ROW]])
        np.testing.assert_allclose(
            part["probabilities"], whole["probabilities"][part[ROW]], atol=1e-4
        )


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"outputs": ["classes"]}, "classes"),
        ({"parameters": {"polcy": "full"}}, "polcy"),
        ({"parameters": {"policy": "fast"}}, "fast"),
        ({"inputs": []}, "found none"),
        ({"inputs": [Tensor("x", np.zeros((1, 2), np.float32))]}, "shape"),
    ],
)
@pytest.mark.parametrize("streamed", [False, True])
async def test_mistakes_are_refused_and_counted(
    dataplane: Dataplane, rows: np.ndarray, change: dict[str, Any], word: str, streamed: bool
) -> None:
    name = dataplane.manifest.inputs[0].name
    given = {"inputs": [Tensor(name, rows[:1])], "outputs": [], "parameters": {}, **change}
    given["inputs"] = [Tensor(name, tensor.array) for tensor in given["inputs"]]
    request = InferRequest(**given)
    before = counted(dataplane.metrics, "requests_total", outcome="invalid_input")
    call = anext(infer_stream(dataplane, request)) if streamed else infer(dataplane, request)
    with pytest.raises(InvalidInput, match=word):
        await call
    assert counted(dataplane.metrics, "requests_total", outcome="invalid_input") == before + 1


async def test_a_stream_that_is_closed_gives_up_its_rows(
    bundle: Bundle, rows: np.ndarray, gates: list[Gate]
) -> None:
    async with serving(bundle) as plane:
        gates.append(Gate(stage=2))
        async with aclosing(infer_stream(plane, asked(plane, rows[:50]))) as parts:
            first = by_name(await anext(parts))
        gates[0].opened.set()
        assert counted(plane.metrics, "rows_total", outcome="cancelled") == 50 - len(first[ROW])


async def test_a_cancelled_inference_gives_up_its_rows(
    bundle: Bundle, rows: np.ndarray, gates: list[Gate]
) -> None:
    async with serving(bundle) as plane:
        gates.append(Gate(stage=1))
        call = asyncio.create_task(infer(plane, asked(plane, rows[:3])))
        await asyncio.to_thread(gates[0].reached.wait, 60)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert counted(plane.metrics, "rows_total", outcome="cancelled") == 3
        gates[0].opened.set()


async def test_a_read_only_tensor_that_lies_anywhere_is_taken(
    dataplane: Dataplane, rows: np.ndarray
) -> None:
    content = memoryview(b"." + rows[:4].tobytes())[1:]
    unaligned = np.frombuffer(content, np.float32).reshape(rows[:4].shape)
    assert not unaligned.flags.aligned
    found, expected = [
        by_name(await infer(dataplane, asked(dataplane, sent, policy="full")))
        for sent in (unaligned, rows[:4])
    ]
    np.testing.assert_array_equal(found["probabilities"], expected["probabilities"])
