from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from models.runtime import Answers
from tests.conftest import ROOT
from tests.small_bundles import small_bundle

sys.path.append(str(ROOT / "benchmarks"))  # scripts import their neighbours by name

import soak as soak_program
from reliability_page import HEADING, Row, read_rows, write_row
from reliability_server import ServiceProcess, running_service
from soak_check import mistake
from soak_client import Outcome
from soak_ends import kills, terms
from soak_http import HttpClient, Lost, NotTaken
from soak_load import Tally
from soak_memory import Memory
from soak_mix import DOORS, Asked, make_mix
from soak_model import write_heavy_bundle
from soak_oracle import Oracle, draw_pool
from soak_parts import Part
from soak_reload import reloads, two_versions
from soak_site import Finding, Plan, Site
from soak_steady import Probes, overload, soak

ROWS = 200
SHORT = Plan(
    soak=4 / 60,
    capacity=1.5,
    overload=2.5,
    probe=1.0,
    terms=1,
    reloads=3,
    kills=1,
    around=1.0,
)
SERVED = {"OFFRAMP_LANES": "1", "OFFRAMP_THREADS": "1"}
FEW = 4
"""Requests at a time, of the server that is overloaded: others are refused."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    folder = tmp_path_factory.mktemp("soak")
    bundle = small_bundle(folder / "numbers", "numbers")
    rows, oracles = draw_pool([bundle], ROWS)
    # the rows of this bundle are noise: what leaves early often disagrees with the last exit
    return Site(bundle, rows, oracles, folder, {**SERVED, "OFFRAMP_SHADOW_SHARE": "0"})


@pytest.fixture(scope="module")
def asked(site: Site) -> Asked:
    """A request for all exits of rows that leave at several of them."""
    mix = make_mix(site.rows, site.oracles[0].manifest, 3000)
    return next(
        one
        for one in mix
        if one.options.all_exits
        and one.options.max_exit is None
        and one.options.policy == "certified"
        and len(set(right(one, site.oracles[0]).exits)) > 1
    )


def right(asked: Asked, oracle: Oracle) -> Part:
    """The answer that a request must get."""
    exits = oracle.exits_of(asked.options.policy, asked.options.max_exit)[asked.places]
    answers = oracle.answers_at(exits, asked.places)
    rows = np.arange(len(exits))
    passed = {
        number: (rows, oracle.answers_at(np.full(len(rows), number), asked.places))
        for number in range(1, oracle.depth + 1)
    }
    certified = oracle.certified(asked.options, exits, answers.score)
    return Part(oracle.version, rows, exits, answers, certified, passed)


def moved(part: Part, **changed: np.ndarray) -> Part:
    return replace(part, answers=replace(part.answers, **changed))


def with_passed(part: Part, number: int, answers: Answers | None) -> Part:
    told = {key: value for key, value in part.passed.items() if key != number}
    if answers is not None:
        told[number] = (part.places, answers)
    return replace(part, passed=told)


MUTATIONS: dict[str, Callable[[Part], list[Part]]] = {
    "row": lambda part: [replace(part, places=np.roll(part.places, 1))],
    "rows": lambda part: [],
    "once each": lambda part: [part, part],
    "exits": lambda part: [replace(part, exits=np.roll(part.exits, 1))],
    "labels": lambda part: [moved(part, labels=~part.answers.labels)],
    "probabilities": lambda part: [moved(part, probabilities=part.answers.probabilities + 2e-4)],
    "score": lambda part: [moved(part, score=np.full(len(part.places), np.nan, np.float32))],
    "certified": lambda part: [replace(part, certified=~part.certified)],
    "version": lambda part: [replace(part, version="another")],
    "exit 2": lambda part: [with_passed(part, 2, None)],
    "exit 2: labels": lambda part: [with_passed(part, 2, part.passed[3][1])],
    "beyond": lambda part: [with_passed(part, 4, part.answers)],
}


@pytest.mark.parametrize("words", MUTATIONS)
def test_an_answer_that_is_not_the_bundle_s_is_found(words: str, asked: Asked, site: Site) -> None:
    oracle = site.oracles[0]
    oracles, part = {oracle.version: oracle}, right(asked, oracle)
    assert mistake(asked, [part], oracles) == ""
    found = mistake(asked, MUTATIONS[words](part), oracles)
    assert found
    assert words in found or words == "row"


def test_rows_of_two_versions_in_one_answer_are_found(
    asked: Asked, site: Site, tmp_path: Path
) -> None:
    rows, oracles = draw_pool(two_versions(site.bundle, tmp_path), ROWS)
    known = {oracle.version: oracle for oracle in oracles}
    one = next(a for a in make_mix(rows, oracles[0].manifest, 600) if len(a.places) == 2)
    whole = [right(one, oracle) for oracle in oracles]
    halves = [taken(whole[0], [0]), taken(whole[1], [1])]
    assert mistake(one, [whole[0]], known) == mistake(one, [whole[1]], known) == ""
    assert "mixture" in mistake(one, halves, known)
    assert "the version ''" in mistake(one, [replace(whole[0], version="")], known)
    assert mistake(one, [replace(whole[0], version=whole[1].version)], known)


def taken(part: Part, rows: list[int]) -> Part:
    return Part(
        part.version,
        part.places[rows],
        part.exits[rows],
        part.answers.take(np.array(rows)),
        part.certified[rows],
    )


def test_rows_that_two_versions_answer_alike_are_not_sent(site: Site) -> None:
    with pytest.raises(SystemExit, match="of one bundle only"):
        draw_pool([site.bundle, site.bundle], ROWS)


def test_the_mix_has_every_door_policy_and_size(site: Site) -> None:
    manifest = site.oracles[0].manifest
    mix = make_mix(site.rows, manifest, 1200)
    for door in DOORS:
        options = [one.options for one in mix if one.door == door]
        wanted = {"certified", "full", *(f"exit:{k}" for k in range(1, manifest.depth + 1))}
        assert {chosen.policy for chosen in options} == wanted
        assert {chosen.max_exit for chosen in options} == {None, *range(1, manifest.depth + 1)}
        assert {chosen.priority for chosen in options} == {"interactive", "batch"}
        assert len({chosen.deadline_ms for chosen in options}) == 2
        assert any(chosen.all_exits for chosen in options) == (door == "predict")
        assert {1, 32} <= {len(one.places) for one in mix if one.door == door}


@asynccontextmanager
async def listening(
    serve: Callable[[socket.socket], None], kept: bool = False
) -> AsyncIterator[HttpClient]:
    """A client of a server that does something with each connection, and closes it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def run() -> None:
            for _ in range(2 if kept else 1):
                connection, _ = listener.accept()
                with connection:
                    serve(connection)

        serving = asyncio.create_task(asyncio.to_thread(run))
        client = HttpClient(listener.getsockname()[1])
        yield client
        await client.close()
        await serving


def read_all(connection: socket.socket) -> None:
    received = b""
    while not received.endswith(b"the end"):
        received += connection.recv(2**16)


def read_a_byte(connection: socket.socket) -> None:
    connection.recv(1)


def answered(connection: socket.socket) -> None:
    read_all(connection)
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")


def half_answered(connection: socket.socket) -> None:
    read_all(connection)
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok")


async def test_a_request_that_was_read_and_not_answered_is_lost() -> None:
    async with listening(read_all) as client:
        with pytest.raises(Lost, match="without an answer"):
            await client.post("/", {}, b"the end")


async def test_half_an_answer_is_a_lost_request() -> None:
    async with listening(half_answered) as client:
        with pytest.raises(Lost, match="within the answer's body"):
            await client.post("/", {}, b"the end")


async def test_a_request_of_which_the_server_left_something_unread_was_not_taken() -> None:
    async with listening(read_a_byte) as client:
        with pytest.raises(NotTaken, match="reset"):
            await client.post("/", {}, bytes(2**20) + b"the end")


async def test_a_server_that_is_not_there_takes_nothing() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        client = HttpClient(probe.getsockname()[1])
        with pytest.raises(NotTaken, match="no connection"):
            await client.post("/", {}, b"the end")


async def test_a_connection_that_was_closed_meanwhile_is_replaced() -> None:
    async with listening(answered, kept=True) as client:
        for _ in range(2):
            response = await client.post("/", {}, b"the end")
            assert response.body == b"ok"


async def test_an_answer_in_chunks_is_put_together() -> None:
    def chunks(connection: socket.socket) -> None:
        read_all(connection)
        head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        connection.sendall(head + b"3\r\nabc\r\n10\r\n0123456789abcdef\r\n0\r\n\r\n")

    async with listening(chunks) as client:
        assert (await client.post("/", {}, b"the end")).body == b"abc0123456789abcdef"


def test_the_slope_of_memory_is_not_moved_by_the_start_nor_by_single_samples() -> None:
    seconds = np.arange(0.0, 1800.0, 10.0)
    mib = 200 + 3.0 * seconds / 600
    mib[seconds < 500] += 80 * np.exp(-seconds[seconds < 500] / 100)
    mib[::7] += 50
    assert Memory(seconds.tolist(), mib.tolist()).slope == pytest.approx(3.0, abs=0.05)


def test_recovery_is_when_answers_are_quick_again_and_stay_so() -> None:
    probes = Probes()
    probes.sent = [0.1 * number for number in range(40)]
    probes.milliseconds = [90.0] * 10 + [5.0] * 5 + [float("inf")] + [5.0] * 24
    assert probes.recovery(normal=10.0) == pytest.approx(1.6)
    probes.milliseconds[30] = 90.0
    probes.milliseconds[35] = 90.0
    assert probes.recovery(normal=10.0) == pytest.approx(1.6)
    probes.milliseconds[20] = 90.0
    assert probes.recovery(normal=10.0) == float("inf")


def test_a_row_of_the_page_is_replaced_by_name_and_the_others_are_kept(tmp_path: Path) -> None:
    page = tmp_path / "reliability.md"
    page.write_text("# Reliability\n\nwords\n\n## Limits\n\nmore\n")
    write_row(Row("one", "a | b", "1\n2", False, "make one"), page)
    write_row(Row("two", "c", "3", True, "make two"), page)
    write_row(Row("one", "d", "4", True, "make one"), page)
    text = page.read_text()
    assert text.startswith("# Reliability\n\nwords\n\n## Limits\n\nmore\n\n" + HEADING)
    one, two = read_rows(text)
    assert (one.test, one.expected, one.found, one.passed) == ("one", "d", "4", True)
    assert (two.test, two.command) == ("two", "make two")
    assert one.run == two.run
    assert "cores" in one.run


@pytest.mark.parametrize(("correct", "in_time"), [(True, True), (True, False), (False, True)])
def test_a_test_that_misses_its_mark_makes_the_status_one_and_is_written_down(
    correct: bool,
    in_time: bool,
    site: Site,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    async def measure(on: Site, plan: Plan) -> Finding:
        assert plan.soak == 6
        return Finding("the test", "all", str(len(on.rows)), correct, in_time, Tally())

    monkeypatch.setitem(soak_program.TESTS, "soak", measure)
    page, passed = tmp_path / "page.md", correct and in_time
    command = ["--only", "soak", "--minutes", "6", "--bundle", str(site.bundle.path)]
    assert soak_program.main([*command, "--page", str(page)]) == (0 if passed else 1)
    (row,) = read_rows(page.read_text())
    assert (row.test, row.passed) == ("the test", passed)
    assert row.command == "make soak ONLY=soak SOAK_MINUTES=6 BUNDLE=bundles/numbers"
    assert ("pass: the test" if passed else "FAIL: the test") in capsys.readouterr().out


def test_rows_of_the_heavy_bundle_leave_at_every_exit(tmp_path: Path) -> None:
    rows, (oracle,) = draw_pool([write_heavy_bundle(tmp_path / "heavy")], 32)
    assert set(oracle.exits_of("certified", None)) == {1, 2, 3, 4}
    assert len(rows) > 28


@pytest.fixture(scope="module")
def standing(site: Site) -> Iterator[ServiceProcess]:
    """One server for all tests that do not end it."""
    settings = {**site.settings, "OFFRAMP_MAX_PARALLEL": str(FEW)}
    with running_service(site.folder, OFFRAMP_BUNDLE=str(site.bundle.path), **settings) as server:
        yield server


def check(finding: Finding) -> None:
    assert finding.correct, f"{finding.found}; {finding.tally}"


@pytest.mark.slow
async def test_a_loaded_server_answers_as_the_bundle_does(
    site: Site, standing: ServiceProcess
) -> None:
    finding = await soak(replace(site, standing=standing), SHORT)
    check(finding)
    for door in DOORS:
        assert finding.tally.counts[door, Outcome.ANSWERED] > 0


@pytest.mark.slow
async def test_an_overloaded_server_refuses_and_answers_the_others(
    site: Site, standing: ServiceProcess
) -> None:
    finding = await overload(replace(site, standing=standing), SHORT)
    check(finding)
    assert finding.tally.of(Outcome.REFUSED) > 0
    assert standing.get("/readyz").status_code == 200


@pytest.mark.slow
async def test_a_server_that_is_told_to_stop_answers_what_it_has_accepted(site: Site) -> None:
    check(await terms(site, SHORT))


@pytest.mark.slow
async def test_a_bundle_that_is_exchanged_answers_by_one_version_or_the_other(site: Site) -> None:
    check(await reloads(site, SHORT))


@pytest.mark.slow
async def test_a_killed_worker_ends_the_server_and_clients_that_retry_lose_nothing(
    site: Site,
) -> None:
    finding = await kills(site, SHORT)
    check(finding)
