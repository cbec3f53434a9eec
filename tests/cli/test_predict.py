from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from cli.main import app
from models.bundle import Bundle
from models.errors import (
    Forbidden,
    InvalidInput,
    NotFound,
    Overloaded,
    Unauthenticated,
    Unavailable,
)
from service.engine import Engine
from tests.end_to_end.server import free_port
from tests.live_server import LiveServer, live_server
from tests.small_bundles import KINDS, small_bundle, small_image

OFFRAMP = Path(sys.executable).parent / "offramp"
KEY = "k" * 40


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Bundle]:
    folder = tmp_path_factory.mktemp("bundles")
    return {kind: small_bundle(folder / kind, kind) for kind in KINDS}


@pytest.fixture(scope="module")
def images(small: dict[str, Bundle]) -> Iterator[LiveServer]:
    with live_server(small["image"]) as server:
        yield server


@pytest.fixture(scope="module")
def texts(small: dict[str, Bundle]) -> Iterator[LiveServer]:
    with live_server(small["text"]) as server:
        yield server


@pytest.fixture(scope="module")
def numbers(small: dict[str, Bundle]) -> Iterator[LiveServer]:
    with live_server(small["numbers"]) as server:
        yield server


@pytest.fixture(scope="module")
def locked(
    small: dict[str, Bundle], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LiveServer]:
    keys = tmp_path_factory.mktemp("keys") / "keys"
    keys.write_text(KEY)
    with live_server(small["numbers"], keys_file=keys) as server:
        yield server


@pytest.fixture(params=["http", "grpc"])
def scheme(request: Any) -> str:
    return request.param


def url(server: LiveServer, scheme: str) -> str:
    return f"{scheme}://{getattr(server, scheme)}"


def predict(*arguments: Any, code: int = 0, stdin: str | None = None) -> list[dict[str, Any]]:
    result = CliRunner().invoke(app, ["predict", *map(str, arguments)], input=stdin)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


def written(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_every_image_is_a_row_in_the_order_given(
    images: LiveServer, scheme: str, tmp_path: Path
) -> None:
    files = [written(tmp_path / f"{k}.png", small_image(seed=k)) for k in range(7)]
    lines = predict(url(images, scheme), *files, "--batch", 2)
    assert [line["file"] for line in lines] == [str(file) for file in files]
    for file, line in zip(files, lines, strict=True):
        (alone,) = predict(url(images, scheme), file)
        assert alone["exit"] == line["exit"]
        assert alone["probabilities"] == pytest.approx(line["probabilities"], abs=1e-4)


def test_a_broken_file_fails_alone(images: LiveServer, scheme: str, tmp_path: Path) -> None:
    files = [written(tmp_path / f"{k}.png", small_image(seed=k)) for k in range(5)]
    written(files[3], small_image()[:60])
    lines = predict(url(images, scheme), *files, code=1)
    assert ["error" in line for line in lines] == [False, False, False, True, False]
    assert "cut short" in lines[3]["error"]


def test_the_first_broken_file_is_the_last_line_on_request(
    images: LiveServer, tmp_path: Path
) -> None:
    files = [written(tmp_path / f"{k}.png", b"no image") for k in range(5)]
    (line,) = predict(url(images, "http"), *files, "--batch", 1, "--fail-fast", code=1)
    assert line["file"] == str(files[0])


def test_texts_come_from_lines(texts: LiveServer, scheme: str, tmp_path: Path) -> None:
    plain = written(tmp_path / "a.txt", "w1 w2\nw3\n")
    objects = written(tmp_path / "a.jsonl", '{"text": "w1 w2"}\n"w3"\n')
    lines = predict(url(texts, scheme), plain, objects)
    assert [(Path(line["file"]).name, line["row"]) for line in lines] == [
        ("a.txt", 0),
        ("a.txt", 1),
        ("a.jsonl", 0),
        ("a.jsonl", 1),
    ]
    for one, other in zip(lines[:2], lines[2:], strict=True):
        assert one["probabilities"] == pytest.approx(other["probabilities"], abs=1e-4)
    (piped,) = predict(url(texts, scheme), "-", stdin="w3\n")
    assert piped["probabilities"] == pytest.approx(lines[1]["probabilities"], abs=1e-4)


def test_numbers_come_from_tables_and_arrays(
    numbers: LiveServer, scheme: str, tmp_path: Path
) -> None:
    rows = np.random.default_rng(0).normal(size=(3, 6)).astype(np.float32)
    table = "".join(",".join(map(str, row)) + "\n" for row in rows)
    lists = "".join(json.dumps(row) + "\n" for row in rows.tolist())
    np.save(tmp_path / "a.npy", rows)
    np.savez(tmp_path / "a.npz", x=rows)
    files = [written(tmp_path / "a.csv", table), written(tmp_path / "a.jsonl", lists)]
    files += [tmp_path / "a.npy", tmp_path / "a.npz"]
    answers = [predict(url(numbers, scheme), file) for file in files]
    answers.append(predict(url(numbers, scheme), "-", stdin=table))
    answers.append(predict(url(numbers, scheme), "-", stdin=lists))
    for lines in answers:
        for line, expected in zip(lines, answers[0], strict=True):
            assert line["probabilities"] == pytest.approx(expected["probabilities"], abs=1e-4)
    assert len({tuple(line["probabilities"]) for line in answers[0]}) == 3


def test_bad_lines_are_named(numbers: LiveServer, tmp_path: Path) -> None:
    table = written(tmp_path / "a.csv", "a,b,c,d,e,f\n1,2,3,4,5,6\n1,2\n1,2,3,4,5,nan\n")
    head, good, short, not_finite = predict(url(numbers, "http"), table, code=1)
    assert "expected numbers" in head["error"]
    assert good["exit"] == 3
    assert "shape [2], expected [6]" in short["error"]
    assert "finite" in not_finite["error"]


class Unpickled:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_nothing_is_unpickled(numbers: LiveServer, tmp_path: Path) -> None:
    objects = np.array([Unpickled(tmp_path / "created")], object)
    np.save(tmp_path / "a.npy", objects, allow_pickle=True)
    np.savez(tmp_path / "a.npz", x=objects)
    good = written(tmp_path / "a.csv", "1,2,3,4,5,6\n")
    files = (tmp_path / "a.npy", tmp_path / "a.npz", good)
    *bad, answered = predict(url(numbers, "http"), *files, code=1)
    assert ["cannot be read" in line["error"] for line in bad] == [True, True]
    assert answered["exit"] == 3
    assert not (tmp_path / "created").exists()


def test_options_reach_the_server(numbers: LiveServer, scheme: str, tmp_path: Path) -> None:
    table = written(tmp_path / "a.csv", "1,2,3,4,5,6\n")
    options = ("--policy", "full", "--max-exit", 2, "--deadline-ms", 9000, "--priority", "batch")
    (line,) = predict(url(numbers, scheme), table, *options)
    assert (line["exit"], line["certified"]) == (2, False)


def test_labels_are_ranked(images: LiveServer, tmp_path: Path) -> None:
    files = [written(tmp_path / f"{k}.png", small_image(seed=k)) for k in range(6)]
    sets = [line["labels"] for line in predict(url(images, "http"), *files)]
    for labels in sets:
        probabilities = [label["probability"] for label in labels]
        assert probabilities == sorted(probabilities, reverse=True)
    places = [[label["name"] for label in labels] for labels in sets]
    assert any(names != sorted(names) for names in places), "nothing was to be ranked"


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        (["--policy", "fast"], InvalidInput, ["policy", "'fast'", "exit:<k>"]),
        (["--max-exit", "9"], InvalidInput, ["max_exit", "9", "1 to 3"]),
        (["--model", "other"], NotFound, ["'other'", "small-numbers"]),
    ],
)
def test_what_is_wrong_for_all_rows_is_said_once(
    numbers: LiveServer,
    scheme: str,
    tmp_path: Path,
    options: list[str],
    error: type[Exception],
    words: list[str],
) -> None:
    table = written(tmp_path / "a.csv", "1,2,3,4,5,6\n" * 40)
    with pytest.raises(error) as raised:
        predict(url(numbers, scheme), table, *options)
    assert all(word in str(raised.value) for word in words), raised.value


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.txt", "a text", ["a.txt", "takes numbers", ".csv"]),
        ("a.png", "a text", ["a.png", "takes numbers", ".npz"]),
    ],
)
def test_a_file_of_another_kind_is_refused_before_anything_is_sent(
    numbers: LiveServer, tmp_path: Path, name: str, content: str, words: list[str]
) -> None:
    with pytest.raises(InvalidInput) as raised:
        predict(url(numbers, "http"), written(tmp_path / name, content))
    assert all(word in str(raised.value) for word in words), raised.value


def test_a_key_is_sent(
    locked: LiveServer, scheme: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = written(tmp_path / "a.csv", "1,2,3,4,5,6\n")
    server = url(locked, scheme)
    for wrong in ([], ["--key", "wrong"]):
        with pytest.raises((Unauthenticated, Forbidden), match="OFFRAMP_KEY"):
            predict(server, table, *wrong)
    assert len(predict(server, table, "--key", KEY)) == 1
    monkeypatch.setenv("OFFRAMP_KEY", KEY)
    assert len(predict(server, table)) == 1


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate that vouches for itself, and its private key."""
    folder = tmp_path_factory.mktemp("tls")
    words = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1 -subj /CN=server"
    words += " -addext subjectAltName=IP:127.0.0.1 -keyout key.pem -out certificate.pem"
    subprocess.run(["openssl", *words.split()], cwd=folder, check=True, capture_output=True)
    return folder / "certificate.pem", folder / "key.pem"


def test_the_servers_certificate_is_checked(
    small: dict[str, Bundle], certificate: tuple[Path, Path], tmp_path: Path
) -> None:
    table = written(tmp_path / "a.csv", "1,2,3,4,5,6\n")
    authority, key = certificate
    files = {"tls_certificate": authority, "tls_key": key}
    with live_server(small["numbers"], **files) as server:
        for address in (f"https://{server.http}", f"grpcs://{server.grpc}"):
            assert len(predict(address, table, "--ca", authority)) == 1
            with pytest.raises(Unavailable, match="--ca"):
                predict(address, table)


@pytest.mark.parametrize("scheme", ["https", "grpcs"])
def test_a_file_that_holds_no_certificates_is_named(scheme: str, tmp_path: Path) -> None:
    table = written(tmp_path / "a.csv", "1,2,3,4,5,6\n")
    with pytest.raises(InvalidInput, match=r"--ca.*PEM"):
        predict(f"{scheme}://127.0.0.1:1", table, "--ca", table)


@pytest.mark.parametrize("scheme", ["http", "https", "grpc", "grpcs"])
def test_without_a_server_the_address_is_named(scheme: str, tmp_path: Path) -> None:
    address = f"{scheme}://127.0.0.1:{free_port()}"
    with pytest.raises(Unavailable, match=address):
        predict(address, written(tmp_path / "a.csv", "1\n"))


@pytest.mark.parametrize(
    ("scheme", "port"), [("https", "http"), ("grpcs", "grpc"), ("http", "grpc"), ("grpc", "http")]
)
def test_a_server_that_speaks_otherwise_is_named(
    numbers: LiveServer, tmp_path: Path, scheme: str, port: str
) -> None:
    with pytest.raises(Unavailable, match="TLS"):
        predict(f"{scheme}://{getattr(numbers, port)}", written(tmp_path / "a.csv", "1\n"))


@pytest.mark.parametrize("address", ["localhost:3000", "ftp://localhost", "http://"])
def test_a_url_that_is_none_is_answered_with_those_that_are(address: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="grpcs://"):
        predict(address, written(tmp_path / "a.csv", "1\n"))


class Full:
    """An engine that has no room for its first requests."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, times: int) -> None:
        self.refused = 0
        self._times = times
        self._run = Engine.run
        monkeypatch.setattr(Engine, "run", lambda engine, job: self.run(engine, job))

    async def run(self, engine: Engine, job: Any) -> Any:
        if self.refused < self._times:
            self.refused += 1
            raise Overloaded("the queue is full", "rows", 0.0)
        return await self._run(engine, job)


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that the command waited, on a clock that does not."""
    waited: list[float] = []

    async def wait(seconds: float) -> None:
        waited.append(seconds)

    monkeypatch.setattr("cli.predict_run.sleep", wait)
    return waited


def test_a_full_server_is_asked_again(
    numbers: LiveServer,
    scheme: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    waits: list[float],
) -> None:
    full = Full(monkeypatch, times=2)
    (line,) = predict(url(numbers, scheme), written(tmp_path / "a.csv", "1,2,3,4,5,6\n"))
    assert line["exit"] == 3
    assert full.refused == 2
    assert waits == [1.0, 1.0]


def test_a_server_that_stays_full_is_given_up(
    numbers: LiveServer,
    scheme: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    waits: list[float],
) -> None:
    full = Full(monkeypatch, times=1000)
    table = written(tmp_path / "a.csv", "1,2,3,4,5,6\n" * 2)
    lines = predict(url(numbers, scheme), table, code=1)
    assert ["the queue is full" in line["error"] for line in lines] == [True, True]
    assert full.refused == 6


def test_lines_go_to_standard_output_also_where_a_terminal_shows_the_bar(
    numbers: LiveServer, tmp_path: Path
) -> None:
    table = written(tmp_path / "a.csv", "1,2,3,4,5,6\n" * 3)
    master, slave = pty.openpty()
    try:
        command = [OFFRAMP, "predict", url(numbers, "http"), table]
        result = subprocess.run(command, stdout=subprocess.PIPE, stderr=slave, check=True)
        assert len(result.stdout.splitlines()) == 3
        assert b"predict" in os.read(master, 10_000)
    finally:
        os.close(master)
        os.close(slave)


def test_a_mistake_is_one_paragraph_and_exit_code_2(tmp_path: Path) -> None:
    command = [OFFRAMP, "predict", f"grpc://127.0.0.1:{free_port()}", tmp_path / "a.csv"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 2
    assert result.stderr.startswith("error: found no server")
    assert len(result.stderr.splitlines()) == 1
