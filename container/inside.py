"""Runs inside a container, beside its server, with nothing but what the image has.

Its input is a line, `report` or `stop`, and a `/predict` request. It prints one JSON object: what
the image is and how its server answers, over HTTP and gRPC; or how the calls were answered that
were in flight when the server was told to end.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import sys
import time
import urllib.request
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.grpc as triton

HTTP = "http://127.0.0.1:3000"
GRPC = "127.0.0.1:3001"
READY_SECONDS = 120.0
FOREIGN = ("torch", "calibration", "cli", "sklearn", "typer", "matplotlib")
"""What serving never needs."""
CALLS, ROWS = 12, 256
"""In flight when the server is told to end."""


def get(path: str, body: bytes | None = None) -> str:
    """The answer's body."""
    headers = {"content-type": "application/json"}
    request = urllib.request.Request(HTTP + path, body, headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return str(answer.read().decode())


def wait_until_ready() -> float:
    """Poll `/readyz`; the time in seconds since the epoch when it said yes."""
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        try:
            get("/readyz")
            return time.time()
        except OSError:  # an error status is one too
            time.sleep(0.02)
    raise TimeoutError(f"not ready in {READY_SECONDS:.0f} s")


def over_grpc(model: str, rows: np.ndarray, policy: str = "certified") -> list[int]:
    """The exit of each row, by Triton's client."""
    client = triton.InferenceServerClient(GRPC)
    tensor = triton.InferInput(client.get_model_metadata(model).inputs[0].name, rows.shape, "FP32")
    tensor.set_data_from_numpy(rows)
    answer = client.infer(model, [tensor], parameters={"policy": policy}, client_timeout=60)
    return [int(one) for one in answer.as_numpy("exit")]


def writable(path: str) -> bool:
    """Whether a file can be made there."""
    probe = Path(path) / "probe"
    try:
        probe.touch()
    except OSError:
        return False
    probe.unlink()
    return True


def peak_memory() -> int:
    """Bytes that the server's processes have held at most, added up."""
    mine = os.getpid()
    total = 0
    for status in Path("/proc").glob("[0-9]*/status"):
        held = re.search(r"VmHWM:\s+(\d+) kB", status.read_text())
        if held and int(status.parent.name) != mine:
            total += int(held[1]) * 1024
    return total


def report(request: dict[str, Any]) -> dict[str, Any]:
    """What the image is and how its server answers."""
    ready_at = wait_until_ready()
    answer = json.loads(get("/predict", json.dumps(request).encode()))
    rows = np.array(request["rows"], np.float32)
    return {
        "ready_at": ready_at,
        "user": os.getuid(),
        "first_process": Path("/proc/1/cmdline").read_text().split("\0"),
        "writable": [path for path in ("/", "/app", os.environ["HOME"], ".") if writable(path)],
        "network": sorted(os.listdir("/sys/class/net")),
        "foreign": [name for name in FOREIGN if importlib.util.find_spec(name)],
        "cuda": importlib.util.find_spec("nvidia") is not None,
        "http": [row["exit"] for row in answer["rows"]],
        "grpc": over_grpc(answer["model"], rows),
        "peak_bytes": peak_memory(),
    }


def waiting_rows() -> float:
    """Rows that are queued at any stage."""
    values = re.findall(r"^offramp_queue_rows\{.*\} (\S+)$", get("/metrics"), re.MULTILINE)
    return sum(map(float, values))


def outcome(call: Future[list[int]]) -> int | str:
    """The number of rows that were answered, or the gRPC status of the error."""
    try:
        return len(call.result())
    except triton.InferenceServerException as error:
        return str(error.status())


def end_while_busy(request: dict[str, Any]) -> dict[str, Any]:
    """SIGTERM to the server as soon as rows wait; rows answered, or the refusal, of each call."""
    model = json.loads(get("/predict", json.dumps(request).encode()))["model"]
    rows = np.resize(np.array(request["rows"], np.float32), (ROWS, *np.shape(request["rows"])[1:]))
    with ThreadPoolExecutor(CALLS) as pool:
        calls: list[Future[list[int]]] = [
            pool.submit(over_grpc, model, rows, "full") for _ in range(CALLS)
        ]
        while not (waiting := waiting_rows()) and not all(call.done() for call in calls):
            pass
        os.kill(1, signal.SIGTERM)
        return {"waiting": waiting, "calls": [outcome(call) for call in calls]}


if __name__ == "__main__":
    stop = sys.stdin.readline().strip() == "stop"
    body = json.load(sys.stdin)
    print(json.dumps(end_while_busy(body) if stop else report(body)), flush=True)
