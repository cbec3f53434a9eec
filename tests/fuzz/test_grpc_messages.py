"""Messages to the gRPC port that are damaged on their way, or were never meant to be messages."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2 as pb

from tests.fuzz.rounds import Repeat, any_request
from tests.fuzz.target import SECONDS, Target
from tests.fuzz.test_oip_requests import good_request

pytestmark = pytest.mark.slow

SERVICE = "/inference.GRPCInferenceService/"
FAULT_OF_THE_SERVER = {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN}


@pytest.fixture
def channel(target: Target) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(target.server.grpc) as channel:
        yield channel


def good_message(target: Target) -> bytes:
    document, raw = good_request(target.kind)
    (tensor,) = document["inputs"]
    described = pb.ModelInferRequest.InferInputTensor(
        name=tensor["name"], datatype=tensor["datatype"], shape=tensor["shape"]
    )
    return pb.ModelInferRequest(
        model_name=target.model, inputs=[described], raw_input_contents=[raw]
    ).SerializeToString()


def status(channel: grpc.Channel, method: str, message: bytes) -> grpc.StatusCode:
    try:
        channel.unary_unary(SERVICE + method)(message, timeout=SECONDS)
    except grpc.RpcError as error:
        code: grpc.StatusCode = error.code()
        return code
    return grpc.StatusCode.OK


def test_a_good_message_is_answered(target: Target, channel: grpc.Channel) -> None:
    assert status(channel, "ModelInfer", good_message(target)) is grpc.StatusCode.OK


def test_damaged_messages(target: Target, channel: grpc.Channel, repeat: Repeat) -> None:
    whole = good_message(target)
    edits = st.lists(st.tuples(st.integers(0, len(whole) - 1), st.integers(0, 255)), max_size=4)

    @any_request
    @given(edits, st.just(len(whole)) | st.integers(0, len(whole)), st.just(b"") | st.binary())
    def round_(edited: list[tuple[int, int]], cut: int, added: bytes) -> None:
        message = bytearray(whole)
        for place, value in edited:
            message[place] = value
        found = status(channel, "ModelInfer", bytes(message[:cut]) + added)
        assert found not in FAULT_OF_THE_SERVER
        assert status(channel, "ModelInfer", whole) is grpc.StatusCode.OK

    repeat(round_)
