"""The side-by-side comparison: what the peers serve, how answers are read, what is counted."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from tritonclient.grpc import service_pb2

from benchmarks import gpu_check
from models.bundle import Bundle
from models.graph import split_stages
from models.policy import Policy
from models.runtime import StageRuntime, at_exits
from service.options import DEFAULTS, parse_policy
from tests.conftest import ROOT

sys.path.append(str(ROOT / "benchmarks"))  # scripts import their neighbours by name
sys.path.append(str(ROOT / "benchmarks" / "peers"))

from eager_graph import EagerGraph
from eager_model import EagerModel
from peer_model import PeerModel, document
from serving_case import Case
from serving_load import Latency, answers, open_loop, saturated
from serving_models import write_eager, write_peer

ROWS = 64


@pytest.fixture(scope="module")
def case(bundle: Bundle, rows: np.ndarray) -> Case:
    truth = np.zeros((ROWS, len(bundle.manifest.labels)), bool)
    return Case("digits", bundle, bundle, bundle.manifest.depth - 1, rows[:ROWS], truth)


@pytest.mark.parametrize("exit_number", [1, 4])
def test_a_peer_answers_what_the_bundle_answers_at_that_exit(
    case: Case, runtime: StageRuntime, tmp_path: Path, exit_number: int
) -> None:
    peer = PeerModel(write_peer(tmp_path / "peer", case.bundle, exit_number))
    probabilities, sets = peer.answer(case.rows)
    expected = runtime.all_exits((np.asarray(case.rows),))[exit_number - 1]
    np.testing.assert_allclose(probabilities, expected.probabilities, atol=1e-4)
    np.testing.assert_array_equal(sets, expected.labels)
    assert tuple(peer.labels) == case.labels


def test_eager_stages_answer_each_row_at_the_exit_of_the_policy(
    case: Case, runtime: StageRuntime, tmp_path: Path
) -> None:
    eager = EagerModel(write_eager(tmp_path / "eager", case.bundle))
    probabilities, sets = eager.answer(case.rows)
    all_exits = runtime.all_exits((np.asarray(case.rows),))
    policy: Policy = parse_policy(DEFAULTS.policy, case.bundle.manifest)
    exits = policy.route(np.stack([one.score for one in all_exits]))
    assert len(set(exits.tolist())) > 1
    expected = at_exits(all_exits, exits)
    np.testing.assert_allclose(probabilities, expected.probabilities, atol=1e-4)
    np.testing.assert_array_equal(sets, expected.labels)


def test_a_peer_whose_device_is_not_there_does_not_start(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not gpu_check.missing_device():
        pytest.skip("there is a CUDA device here")
    monkeypatch.setenv("PEER_DEVICE", "cuda")
    folder = write_peer(tmp_path / "peer", case.bundle, 1)
    with pytest.raises((RuntimeError, ValueError)):
        PeerModel(folder)


def test_an_operator_that_is_not_there_is_named() -> None:
    node = onnx.helper.make_node("Det", ["x"], ["y"])
    graph = onnx.helper.make_graph([node], "g", [], [])
    with pytest.raises(ValueError, match=r"found the operators \['Det'\]"):
        EagerGraph(onnx.helper.make_model(graph))


def test_the_stages_of_the_bundle_have_no_other_operators(bundle: Bundle) -> None:
    model = onnx.load_model_from_string(bundle.model)
    for stage in split_stages(model, bundle.manifest.carries):
        EagerGraph(stage)


def test_requests_hold_all_rows_in_their_order(case: Case) -> None:
    told = [json.loads(body)["rows"] for body in case.requests("predict", "", 8)]
    np.testing.assert_allclose(np.concatenate(told), case.rows, atol=1e-3)
    first = service_pb2.ModelInferRequest.FromString(case.requests("OIP gRPC", "m", 8)[0])
    assert first.model_name == "m"
    assert first.raw_input_contents[0] == np.asarray(case.rows[:8]).tobytes()


def test_label_sets_are_read_from_answers_of_all_kinds(case: Case) -> None:
    rng = np.random.default_rng(0)
    sets = rng.random((3, len(case.labels))) < 0.3
    peers = document(case.labels, np.zeros(sets.shape), sets)
    ours = {"rows": [{"labels": [{"name": name} for name in row["labels"]]} for row in peers]}
    oip = {"outputs": [{"name": "labels", "data": sets.ravel().tolist()}]}
    response = service_pb2.ModelInferResponse(raw_output_contents=[b"", sets.tobytes()])
    contents = service_pb2.ModelInferResponse()
    for name in ("probabilities", "labels"):
        response.outputs.add(name=name)
        output = contents.outputs.add(name=name)
    output.contents.bool_contents.extend(sets.ravel().tolist())
    for told in (peers, ours):
        np.testing.assert_array_equal(case.sets("predict", json.dumps(told).encode()), sets)
    np.testing.assert_array_equal(case.sets("OIP JSON", json.dumps(oip).encode()), sets)
    for message in (response, contents):
        np.testing.assert_array_equal(case.sets("OIP gRPC", message.SerializeToString()), sets)


class FakeDoor:
    """Answers every third request with nothing."""

    def __init__(self) -> None:
        self.asked = 0

    async def ask(self, request: bytes) -> bytes | None:
        self.asked += 1
        return None if self.asked % 3 == 0 else request

    async def close(self) -> None: ...


async def test_what_is_not_answered_is_not_counted() -> None:
    class Slow(FakeDoor):
        async def ask(self, request: bytes) -> bytes | None:
            await pause(0.002)
            return await super().ask(request)

    from asyncio import sleep as pause

    door = Slow()
    found = await saturated(door, [b"x"], 4, 0.1, 0.3)
    assert found.share == pytest.approx(2 / 3, abs=0.1)
    assert 0 < found.rate * 0.3 < found.total < door.asked
    milliseconds = await open_loop(FakeDoor(), [b"x"], 300.0, 0.2, 0)
    assert np.isinf(milliseconds).mean() == pytest.approx(1 / 3, abs=0.05)
    latency = Latency.of(milliseconds)
    assert latency.answered == pytest.approx(2 / 3, abs=0.05)
    assert np.isfinite(latency.p50)
    assert np.isinf(latency.p99)


async def test_answers_come_in_the_order_of_the_requests() -> None:
    class Whole(FakeDoor):
        async def ask(self, request: bytes) -> bytes | None:
            return request

    requests = [bytes([number]) for number in range(9)]
    assert await answers(Whole(), requests, 4) == requests
    assert await answers(FakeDoor(), requests, 2) == requests  # what failed is sent again

    class Silent(FakeDoor):
        async def ask(self, request: bytes) -> bytes | None:
            return None

    with pytest.raises(RuntimeError, match="found 0 answers, expected 9"):
        await answers(Silent(), requests, 1)
