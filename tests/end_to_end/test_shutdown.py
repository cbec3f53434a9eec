"""The end of a server that is asked to end, on a real one with real sockets and signals."""

from __future__ import annotations

import json
import os
import queue
import signal
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

from models.bundle import Bundle
from tests.end_to_end.faulty import HELD, body, faulty_server, wait_for_metric
from tests.end_to_end.server import Server, free_port
from tests.small_bundles import small_bundle

pytestmark = pytest.mark.slow


def message(rows: np.ndarray) -> Any:
    request = pb.ModelInferRequest(
        model_name="digits", raw_input_contents=[np.ascontiguousarray(rows, np.float32).tobytes()]
    )
    request.inputs.add(name="image", datatype="FP32", shape=rows.shape)
    request.parameters["policy"].string_param = "full"
    return request


class Clients:
    """What is asked of a server that is about to end."""

    def __init__(self, server: Server, address: str) -> None:
        self.url = server.url
        self.address = ("127.0.0.1", int(server.url.rpartition(":")[2]))
        self.channel = grpc.insecure_channel(address)
        self.stub = service_pb2_grpc.GRPCInferenceServiceStub(self.channel)
        self.requests: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def predict(self, rows: np.ndarray) -> httpx.Response:
        return httpx.post(f"{self.url}/predict", content=body(rows, policy="full"), timeout=60)

    def raw(self, sent: str) -> socket.socket:
        """A connection that has sent this."""
        connection = socket.create_connection(self.address, timeout=60)
        connection.sendall(sent.replace("\n", "\r\n").encode())
        return connection

    def health(self) -> Any:
        stub = health_pb2_grpc.HealthStub(self.channel)
        return stub.Check(health_pb2.HealthCheckRequest(), timeout=60).status


@pytest.fixture
def clients(tmp_path: Path, bundle: Bundle) -> Iterator[tuple[Server, Clients]]:
    port = free_port()
    with faulty_server(tmp_path, bundle, OFFRAMP_GRPC_PORT=str(port)) as server:
        clients = Clients(server, f"127.0.0.1:{port}")
        with clients.channel:
            yield server, clients


def test_what_was_accepted_is_answered_and_the_rest_is_refused(
    tmp_path: Path, clients: tuple[Server, Clients], rows: np.ndarray
) -> None:
    server, asking = clients
    supervisor = psutil.Process(server.process.pid)
    family = [supervisor, *supervisor.children(recursive=True)]
    (tmp_path / HELD).touch()
    content = body(rows[:16], stream=True)
    with (
        ThreadPoolExecutor(1) as thread,
        httpx.Client(timeout=60) as kept,
        httpx.stream("POST", f"{server.url}/predict", content=content, timeout=60) as stream,
        asking.raw("") as silent,
        asking.raw("POST /predict HTTP/1.1\nHost: test\nContent-Length: 1000\n\n{") as half,
    ):
        lines = stream.iter_lines()
        first = json.loads(next(lines))
        assert first["exit"] == 1  # the lane is held with the others before the next exit
        predicting = thread.submit(asking.predict, rows[:2])
        inferring = asking.stub.ModelInfer.future(message(rows[:2]), timeout=60)
        asking.requests.put(message(rows[:2]))
        responses = asking.stub.ModelStreamInfer(iter(asking.requests.get, None), timeout=60)
        wait_for_metric(server, "queue_rows", 6.0, stage="1")
        assert kept.get(f"{server.url}/livez").status_code == 200  # and is silent from now on

        server.process.send_signal(signal.SIGTERM)
        with half.makefile("rb") as answer:
            refused = answer.read()
        assert refused.startswith(b"HTTP/1.1 503")
        assert b"is stopping" in refused
        assert b"connection: close" in refused.lower()
        ready = httpx.get(f"{server.url}/readyz")
        assert (ready.status_code, "is stopping" in ready.text) == (503, True)
        assert asking.health() == health_pb2.HealthCheckResponse.NOT_SERVING
        late = asking.predict(rows[:1])
        assert (late.status_code, late.headers["connection"]) == (503, "close")
        with pytest.raises(grpc.RpcError, match="is stopping") as caught:
            asking.stub.ModelInfer(message(rows[:1]), timeout=60)
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
        assert httpx.get(f"{server.url}/livez").status_code == 200

        server.process.send_signal(signal.SIGTERM)
        (tmp_path / HELD).unlink()
        places = [json.loads(line)["row"] for line in lines]
        assert sorted([first["row"], *places]) == list(range(16))
        answered = predicting.result().json()["rows"]
        assert [row["exit"] for row in answered] == [row["exits"] for row in answered]
        assert inferring.result().outputs[0].shape[0] == 2
        parts = []
        with pytest.raises(grpc.RpcError, match="is stopping"):
            parts.extend(response.infer_response for response in responses)
        assert parts[-1].parameters["triton_final_response"].bool_param
        assert silent.recv(1) == b""
        assert server.process.wait(timeout=30) == os.EX_OK
    assert psutil.wait_procs(family, timeout=10)[1] == []
    log = server.log.read_text()
    assert "event=stopping requests=4" in log
    assert "Traceback" not in log
    assert "given_up" not in log


def test_an_interrupt_ends_it_when_a_slow_client_has_read_its_answer(tmp_path: Path) -> None:
    bundle = small_bundle(tmp_path / "bundle", "numbers")
    roomy = {"OFFRAMP_MAX_ROWS": "20000", "OFFRAMP_MAX_QUEUE_ROWS": "20000"}
    with faulty_server(tmp_path, bundle, **roomy) as server:
        sent = json.dumps({"rows": [[0.0] * 6] * 20_000})  # its answer fills all buffers
        asked = f"POST /predict HTTP/1.1\nHost: test\nContent-Length: {len(sent)}\n\n{sent}"
        with socket.socket() as slow:
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            slow.connect(("127.0.0.1", int(server.url.rpartition(":")[2])))
            slow.sendall(asked.replace("\n", "\r\n").encode())
            slow.recv(1, socket.MSG_PEEK)
            os.killpg(server.process.pid, signal.SIGINT)
            while httpx.get(f"{server.url}/readyz").status_code == 200:
                pass
            assert httpx.post(f"{server.url}/predict", content=sent).status_code == 503
            with slow.makefile("rb") as file:
                head, _, answer = file.read().partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200")
        assert len(json.loads(answer)["rows"]) == 20_000
        assert server.process.wait(timeout=30) == os.EX_OK
