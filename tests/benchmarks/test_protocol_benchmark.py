from __future__ import annotations

import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.runtime import StageRuntime
from tests.conftest import ROOT

sys.path.append(str(ROOT / "benchmarks"))  # scripts import their neighbours by name

from protocol_bundle import COLUMNS, LABELS, write_free_bundle
from protocol_clients import CHUNK, HttpCall
from protocol_doors import BENTOML, OURS, ROW_SHAPES, all_doors, rows_of
from protocol_rounds import Times
from protocol_tables import door_targets
from result_page import with_section

HEADING = "## Ours"
DOOR = "REST"
SECTIONS = st.lists(st.sampled_from(["alpha", "beta", "### A table", "| 1 |"]), max_size=4)


@given(SECTIONS, SECTIONS, SECTIONS, SECTIONS)
def test_only_the_section_itself_is_replaced(
    before: list[str], old: list[str], new: list[str], after: list[str]
) -> None:
    page = page_of("# Top", *before, HEADING, *old, "## Another", *after)
    replaced = with_section(page, HEADING, page_of(HEADING, *new))
    assert replaced == page_of("# Top", *before, HEADING, *new, "## Another", *after)


def test_a_new_section_is_put_at_the_end() -> None:
    page = with_section("", "## first", "## first\n\nfirst words")
    page = with_section(page, "## second", "## second\n\nsecond words\n")
    assert page == page_of("## first", "first words", "## second", "second words")


@pytest.mark.parametrize("size", ROW_SHAPES)
def test_every_row_leaves_the_free_bundle_at_its_first_exit(size: str, tmp_path: Path) -> None:
    bundle = write_free_bundle(tmp_path / size, size, ROW_SHAPES[size])
    rows = rows_of(size)
    runtime = StageRuntime(bundle.model, bundle.manifest.carries)
    answers = runtime.all_exits((rows,))
    assert bundle.manifest.policy.route([exit_.score for exit_ in answers]).tolist() == [1]
    first = rows.reshape(1, -1)[:, : len(LABELS)].astype(float)
    assert len(LABELS) <= COLUMNS
    np.testing.assert_allclose(answers[0].probabilities, 1 / (1 + np.exp(-first)), rtol=1e-5)


def test_added_time_is_the_round_trip_without_the_work_of_the_server() -> None:
    times = two_rounds(ours=[3.0, 5.0], slow=[9.0, 8.0], quick=[2.0, 16.0])
    assert times.added(DOOR, OURS).tolist() == [2, 4]
    assert times.added("gRPC", OURS).tolist() == []


def test_ours_is_compared_with_the_quicker_peer_of_each_round() -> None:
    times = two_rounds(ours=[3.0, 5.0], slow=[9.0, 9.0], quick=[2.0, 17.0])
    assert times.ratio(DOOR, ["slow", "quick"]).tolist() == [2 / 1, 4 / 8]
    assert times.ratio(DOOR, ["slow", "absent"]).tolist() == [2 / 8, 4 / 8]
    assert times.ratio(DOOR, ["absent"]).tolist() == []


def test_json_is_held_to_bentoml_and_the_other_doors_to_mlserver() -> None:
    keys = [(door.name, name) for door in all_doors() for name in (OURS, BENTOML, "peer")]
    taken = {OURS: 1.8, BENTOML: 2.0, "peer": 4.0}
    times = Times({key: np.full(3, taken[key[1]]) for key in keys}, dict.fromkeys(keys, np.ones(3)))
    targets = door_targets(times, all_doors(), ["peer"])
    figures = [target.figure.split()[0] for target in targets]
    assert figures == ["0.80", "0.80", "0.27", "0.27", "0.27"]
    assert all(target.met for target in targets)


def test_without_mlserver_its_targets_have_no_verdict() -> None:
    keys = [(door.name, name) for door in all_doors() for name in (OURS, BENTOML)]
    times = Times(dict.fromkeys(keys, np.ones(3)), dict.fromkeys(keys, np.zeros(3)))
    verdicts = [target.met for target in door_targets(times, all_doors(), [])]
    assert verdicts == [True, True, None, None, None]


@given(st.integers(0, 3 * CHUNK), st.integers(1000, 2 * CHUNK), st.booleans())
def test_an_answer_in_pieces_is_put_together(length: int, piece: int, shouted: bool) -> None:
    body = np.arange(length).astype(np.uint8).tobytes()
    name = b"CONTENT-LENGTH" if shouted else b"content-length"
    head = b"HTTP/1.1 200 OK\r\nserver: s\r\n%s: %d\r\n\r\n" % (name, len(body))
    with answering(head + body, piece) as port, closing(HttpCall(port, "/", b"{}", {})) as call:
        assert call() == body


def test_an_answer_of_another_status_is_an_error_with_its_text() -> None:
    answer = b"HTTP/1.1 429 Too Many Requests\r\ncontent-length: 4\r\n\r\nfull"
    with (
        answering(answer, 9) as port,
        closing(HttpCall(port, "/", b"{}", {})) as call,
        pytest.raises(RuntimeError, match=r"429.*full"),
    ):
        call()


@pytest.mark.slow
def test_a_quick_run_measures_every_door_of_ours_and_bentoml(tmp_path: Path) -> None:
    page = tmp_path / "results.md"
    page.write_text("# Results\n\n## Another\n\nwords\n")
    command = [sys.executable, str(ROOT / "benchmarks" / "protocol.py"), "--quick"]
    ran = subprocess.run(
        [*command, "--out", str(page)], cwd=tmp_path, capture_output=True, text=True, timeout=240
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    text = page.read_text()
    assert text.startswith("# Results\n\n## Another\n\nwords\n\n## The doors, measured\n")
    assert "MLServer was left out" in text
    added, trips = (rows_below(text, title) for title in ("Time added", "Round trips"))
    doors = all_doors()
    assert [row[0] for row in added] == [row[0] for row in trips] == [door.name for door in doors]
    for door, row in zip(doors, trips, strict=True):
        ours, bentoml = row[1:3]
        assert milliseconds(ours) > 0
        assert (bentoml == "-") == (door.bentoml is None)


def page_of(*paragraphs: str) -> str:
    return "\n\n".join(paragraphs) + "\n"


def two_rounds(**taken: list[float]) -> Times:
    """Round trips at one door by server; the work of every server takes 1 ms."""
    named = {OURS if name == "ours" else name: trips for name, trips in taken.items()}
    return Times(
        {(DOOR, name): np.array(trips) for name, trips in named.items()},
        {(DOOR, name): np.ones(2) for name in named},
    )


@contextmanager
def answering(answer: bytes, piece: int) -> Iterator[int]:
    """A port where the first request gets an answer, so many bytes at a time."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                connection.recv(2**16)
                for start in range(0, len(answer), piece):
                    connection.sendall(answer[start : start + piece])
                connection.recv(1)  # until the client is gone

        server = threading.Thread(target=serve)
        server.start()
        yield int(listener.getsockname()[1])
        server.join()


def rows_below(text: str, title: str) -> list[list[str]]:
    """The cells of the table under a heading that begins like this."""
    lines = text.split(f"### {title}")[1].split("###")[0].splitlines()
    cells = [[cell.strip() for cell in line[1:-1].split("|")] for line in lines if line[:1] == "|"]
    return cells[2:]


def milliseconds(cell: str) -> float:
    return float(cell.split()[0])
