"""Asks a running server by KServe's own clients, over REST and gRPC, and compares the answers.

Run by an interpreter that has `kserve`; its protobuf files clash with those of tritonclient.
Nothing of offramp is imported. Ends with an error, and says why, on any difference.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest, RESTConfig
from kserve.protocol.infer_type import RequestedOutput

TOLERANCE = 1e-4
Ask = Callable[[InferRequest], Awaitable[Any]]


def request(
    model: str, name: str, rows: np.ndarray, binary: bool, outputs: tuple[str, ...] = ()
) -> InferRequest:
    """Rows as KServe sends them, raw or as numbers."""
    tensor = InferInput(name, list(rows.shape), "FP32")
    tensor.set_data_from_numpy(rows, binary_data=binary)
    wanted = [RequestedOutput(output) for output in outputs]
    return InferRequest(model, [tensor], request_id="mine", request_outputs=wanted or None)


def compare(response: Any, expected: dict[str, np.ndarray]) -> None:
    """The answer's tensors are those expected, and no others."""
    assert response.id == "mine", response.id
    found = {output.name: output.as_numpy() for output in response.outputs}
    assert found.keys() == expected.keys(), (sorted(found), sorted(expected))
    for name, array in expected.items():
        assert found[name].shape == array.shape, (name, found[name].shape, array.shape)
        np.testing.assert_allclose(
            found[name].astype(float), array.astype(float), atol=TOLERANCE, err_msg=name
        )


async def check_answers(
    ask: Ask, model: str, name: str, rows: np.ndarray, expected: dict[str, np.ndarray]
) -> None:
    """Raw and typed, together and alone, all outputs and some."""
    for binary in (True, False):
        compare(await ask(request(model, name, rows, binary)), expected)
        some = ("exit", "labels")
        answer = await ask(request(model, name, rows, binary, some))
        compare(answer, {output: expected[output] for output in some})
        answer = await ask(request(model, name, rows[:1], binary))
        compare(answer, {output: array[:1] for output, array in expected.items()})


async def check_rest(
    url: str, model: str, name: str, rows: np.ndarray, expected: dict[str, np.ndarray]
) -> None:
    """Health, answers and errors over REST."""
    async with InferenceRESTClient(RESTConfig(protocol="v2")) as client:
        assert await client.is_server_live(url)
        assert await client.is_server_ready(url)
        assert await client.is_model_ready(url, model)
        assert not await client.is_model_ready(url, "other")

        async def ask(asked: InferRequest) -> Any:
            return await client.infer(url, asked, model_name=asked.model_name)

        await check_answers(ask, model, name, rows, expected)
        for bad, expected_status in (
            (request("other", name, rows, True), 404),
            (request(model, "other", rows, True), 400),
            (request(model, name, rows[:0], False), 400),
        ):
            status = None
            try:
                await ask(bad)
            except httpx.HTTPStatusError as error:
                status = error.response.status_code
            assert status == expected_status, status


async def check_grpc(
    address: str, model: str, name: str, rows: np.ndarray, expected: dict[str, np.ndarray]
) -> None:
    """Health, answers and errors over gRPC."""
    async with InferenceGRPCClient(address, retries=0) as client:
        assert await client.is_server_live()
        assert await client.is_server_ready()
        assert await client.is_model_ready(model)
        await check_answers(client.infer, model, name, rows, expected)
        for bad, expected_code in (
            (request("other", name, rows, True), grpc.StatusCode.NOT_FOUND),
            (request(model, "other", rows, True), grpc.StatusCode.INVALID_ARGUMENT),
            (request(model, name, rows[:0], True), grpc.StatusCode.INVALID_ARGUMENT),
        ):
            code = None
            try:
                await client.infer(bad)
            except grpc.RpcError as error:
                code = error.code()
            assert code == expected_code, code


async def check(arguments: argparse.Namespace) -> None:
    """Both protocols, unless one has no address."""
    with np.load(arguments.expected) as file:
        expected = dict(file)
    rows = expected.pop("rows")
    if arguments.http:
        await check_rest(arguments.http, arguments.model, arguments.input, rows, expected)
    if arguments.grpc:
        await check_grpc(arguments.grpc, arguments.model, arguments.input, rows, expected)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    # none with dashes: kserve reads the command line too, when it is imported
    parser.add_argument("http", help="such as http://127.0.0.1:3000; empty to leave REST out")
    parser.add_argument("grpc", help="such as 127.0.0.1:3001; empty to leave gRPC out")
    parser.add_argument("model", help="name of the model, one of numbers")
    parser.add_argument("input", help="name of its input")
    parser.add_argument("expected", type=Path, help="npz of rows and outputs")
    asyncio.run(check(parser.parse_args()))
