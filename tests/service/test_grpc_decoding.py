from __future__ import annotations

from collections.abc import Iterator

import grpc
import pytest

from service.dataplane import Dataplane
from tests.service.grpc_door import grpc_door, over

OIP = "/inference.GRPCInferenceService/"
NO_MESSAGE = b"\x07\xff"


@pytest.fixture(scope="module")
def channel(dataplane: Dataplane) -> Iterator[grpc.Channel]:
    with grpc_door(over(dataplane)) as door, grpc.insecure_channel(door.address) as channel:
        yield channel


def call(channel: grpc.Channel, method: str, message: bytes) -> bytes:
    """A call of bytes, by its kind; what the server sends first."""
    if method.endswith(("Stream", "StreamInfer", "Info")):
        return next(channel.stream_stream(method)(iter([message]), timeout=30))
    if method.endswith("Watch"):
        return next(channel.unary_stream(method)(message, timeout=30))
    answer: bytes = channel.unary_unary(method)(message, timeout=30)
    return answer


@pytest.mark.parametrize(
    "method",
    [
        OIP + "ModelInfer",
        OIP + "ServerLive",
        OIP + "ModelStreamInfer",
        "/grpc.health.v1.Health/Check",
        "/grpc.health.v1.Health/Watch",
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    ],
)
def test_bytes_that_are_no_message_are_refused_in_words(channel: grpc.Channel, method: str) -> None:
    with pytest.raises(grpc.RpcError) as refusal:
        call(channel, method, NO_MESSAGE)
    assert refusal.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert refusal.value.details() == (
        "found bytes that are no message of this call, expected protobuf"
    )
    assert call(channel, OIP + "ServerLive", b"") == b"\x08\x01"
