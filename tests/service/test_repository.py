from __future__ import annotations

import asyncio
import shutil
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.bundle import MODEL, Bundle, read_bundle
from models.errors import BundleError, NotFound, SettingsError, Unavailable
from models.runtime import StageRuntime
from service.dataplane import Dataplane
from service.engine import Engine
from service.metrics import Metrics
from service.repository import OnBroken, Repository
from service.settings import Settings
from service.warmup import open_engine
from tests.small_bundles import Kind, small_bundle

NAME = "small-numbers"
Lanes = Callable[[], int]
ROWS = np.zeros((2, 6), np.float32)


class Shelf:
    """A bundle's place on disk, and what to do when it is opened."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.told: list[str] = []
        self.opened = 0
        self.before_open: Callable[[], object] = lambda: None
        self.put(seed=0)

    def put(self, seed: int, kind: Kind = "numbers") -> Bundle:
        """Another bundle in the same place."""
        shutil.rmtree(self.place, ignore_errors=True)
        return small_bundle(self.place, kind, seed)

    def open(self, on_broken: OnBroken) -> Dataplane:
        self.before_open()
        self.opened += 1
        settings = Settings(bundle=str(self.place), lanes=1, threads=1)
        return Dataplane(read_bundle(self.place), settings, Metrics(), on_broken)


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path / "bundle")


@pytest.fixture
async def repository(shelf: Shelf, lanes: Lanes) -> AsyncIterator[Repository]:
    repository = Repository([shelf.open], shelf.told.append)
    await repository.start()
    assert repository.reason == ""
    yield repository
    await repository.close()


@pytest.fixture
def lanes() -> Lanes:
    """Threads of lanes that were not there before the test."""

    def count() -> int:
        return sum(thread.name.startswith("lane-") for thread in threading.enumerate())

    before = count()
    return lambda: count() - before


async def probabilities(plane: Dataplane) -> np.ndarray:
    return (await plane.predict(ROWS)).routed.answers.probabilities


async def test_a_model_is_found_by_its_name_and_version(repository: Repository) -> None:
    plane = repository.model(NAME)
    assert repository.default == NAME
    assert repository.model(NAME, plane.version) is plane
    (state,) = repository.index()
    assert (state.name, state.version, state.state, state.reason) == (
        NAME,
        plane.version,
        "READY",
        "",
    )


@pytest.mark.parametrize(
    ("name", "version", "word"),
    [("nobody", "", NAME), ("", "", NAME), (NAME.upper(), "", NAME), (NAME, "1", "version '1'")],
)
async def test_unknown_names_and_versions_are_not_found(
    repository: Repository, name: str, version: str, word: str
) -> None:
    with pytest.raises(NotFound, match=word):
        repository.model(name, version)


async def test_changes_of_unknown_models_are_not_found(repository: Repository) -> None:
    with pytest.raises(NotFound):
        await repository.load("nobody")
    with pytest.raises(NotFound):
        await repository.unload("nobody")


async def test_before_the_start_a_model_is_loading(shelf: Shelf) -> None:
    repository = Repository([shelf.open])
    assert [state.state for state in repository.index()] == ["LOADING"]
    assert "warming up" in repository.reason
    await repository.start()
    assert [state.state for state in repository.index()] == ["READY"]
    await repository.close()
    assert [state.state for state in repository.index()] == ["UNAVAILABLE"]


async def test_loading_reads_the_bundle_again(
    repository: Repository, shelf: Shelf, lanes: Lanes
) -> None:
    old = repository.model(NAME)
    shelf.put(seed=1)
    await repository.load(NAME)
    new = repository.model(NAME)
    assert new.version != old.version
    assert (await probabilities(new)).shape == (2, 4)
    with pytest.raises(NotFound, match=new.version):
        repository.model(NAME, old.version)
    with pytest.raises(Unavailable):
        await old.predict(ROWS)
    assert lanes() == 1


async def test_an_unloaded_model_is_not_there_until_it_is_loaded(
    repository: Repository, lanes: Lanes
) -> None:
    expected = await probabilities(repository.model(NAME))
    await repository.unload(NAME)
    await repository.unload(NAME)  # once more changes nothing
    assert lanes() == 0
    with pytest.raises(Unavailable, match="is not loaded: load it"):
        repository.model(NAME)
    (state,) = repository.index()
    assert (state.version, state.state) == ("", "UNAVAILABLE")
    assert "unloaded" in repository.reason
    await repository.load(NAME)
    np.testing.assert_array_equal(await probabilities(repository.model(NAME)), expected)
    assert repository.reason == ""


def break_model(shelf: Shelf) -> None:
    (shelf.place / MODEL).write_bytes(b"not a model")


def rename(shelf: Shelf) -> None:
    shelf.put(seed=0, kind="image")


def remove(shelf: Shelf) -> None:
    shutil.rmtree(shelf.place)


def lose_path(shelf: Shelf) -> None:
    def fail() -> None:
        raise BundleError(f"{shelf.place} is gone")

    shelf.before_open = fail


@pytest.mark.parametrize("spoil", [break_model, rename, remove, lose_path])
@pytest.mark.parametrize("unloaded", [False, True])
async def test_a_bad_bundle_is_not_loaded_and_what_was_served_still_is(
    repository: Repository,
    shelf: Shelf,
    lanes: Lanes,
    caplog: pytest.LogCaptureFixture,
    spoil: Callable[[Shelf], None],
    unloaded: bool,
) -> None:
    plane = repository.model(NAME)
    if unloaded:
        await repository.unload(NAME)
    spoil(shelf)
    with pytest.raises(Unavailable, match="was not loaded") as refusal:
        await repository.load(NAME)
    assert str(shelf.place) not in str(refusal.value)
    assert "event=load_failed" in caplog.text
    assert shelf.told == []
    if unloaded:
        assert lanes() == 0
        assert "none is served" in str(refusal.value)
    else:
        assert "the one before is served" in str(refusal.value)
        assert repository.model(NAME) is plane
        assert (await probabilities(plane)).shape == (2, 4)


async def test_a_model_that_cannot_warm_up_is_not_loaded(
    repository: Repository, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise SettingsError("no such device")

    plane = repository.model(NAME)
    monkeypatch.setattr("service.dataplane.open_engine", refuse)
    with pytest.raises(Unavailable, match="was not loaded"):
        await repository.load(NAME)
    assert repository.model(NAME) is plane
    assert shelf.told == []  # what is served can still answer


class Held:
    """Holds the stage runs of the engine that runs first after this was made."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reached, self.opened = threading.Event(), threading.Event()
        runtimes: list[StageRuntime] = []
        real = StageRuntime.run

        def run(runtime: StageRuntime, stage: int, carry: Any) -> Any:
            runtimes.append(runtime)
            if runtime is runtimes[0]:
                self.reached.set()
                assert self.opened.wait(60)
            return real(runtime, stage, carry)

        monkeypatch.setattr(StageRuntime, "run", run)


@pytest.mark.parametrize("change", ["load", "unload"])
async def test_requests_in_flight_are_answered_by_the_model_that_took_them(
    repository: Repository, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    old = repository.model(NAME)
    expected = await probabilities(old)
    held, closing = Held(monkeypatch), threading.Event()
    real = Dataplane.close

    def close(plane: Dataplane) -> None:
        closing.set()
        real(plane)

    monkeypatch.setattr(Dataplane, "close", close)
    request = asyncio.create_task(probabilities(old))
    await asyncio.to_thread(held.reached.wait, 60)
    changing = asyncio.create_task(getattr(repository, change)(NAME))
    await asyncio.to_thread(closing.wait, 60)
    if change == "load":  # the new one answers while the old one still works
        np.testing.assert_array_equal(await probabilities(repository.model(NAME)), expected)
    else:
        with pytest.raises(Unavailable, match="not loaded"):
            repository.model(NAME)
    assert not request.done()
    assert not changing.done()
    held.opened.set()
    np.testing.assert_array_equal(await request, expected)
    await changing


async def test_loading_again_and_again_fails_no_request(repository: Repository) -> None:
    done = False
    answered = 0

    async def ask() -> None:
        nonlocal answered
        while not done:
            with repository.using(NAME) as plane:
                await asyncio.create_task(plane.predict(ROWS))
            answered += 1

    askers = [asyncio.create_task(ask()) for _ in range(8)]
    for _ in range(4):
        await repository.load(NAME)
    done = True
    await asyncio.gather(*askers)
    assert answered > 8


@pytest.mark.parametrize("change", ["load", "unload"])
async def test_who_uses_a_model_is_answered_by_it_although_another_is_there(
    repository: Repository, change: str
) -> None:
    with repository.using(NAME) as old:
        changing = asyncio.create_task(getattr(repository, change)(NAME))
        while old in planes(repository):  # noqa: ASYNC110  # nothing tells of it
            await asyncio.sleep(0)
        for _ in range(100):
            await asyncio.sleep(0)
        assert (await probabilities(old)).shape == (2, 4)
        assert not changing.done()
    await changing
    with pytest.raises(Unavailable):
        await old.predict(ROWS)


def planes(repository: Repository) -> list[Dataplane]:
    """What is served now."""
    return [repository.model(model.name) for model in repository.index() if model.version]


async def test_changes_of_one_model_wait_for_each_other(
    repository: Repository, shelf: Shelf, lanes: Lanes
) -> None:
    await asyncio.gather(repository.load(NAME), repository.unload(NAME), repository.load(NAME))
    assert shelf.opened == 3
    assert lanes() == 1
    assert repository.reason == ""


async def test_a_load_goes_on_when_its_client_leaves(
    repository: Repository, lanes: Lanes, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = repository.model(NAME)
    begun, go_on = threading.Event(), threading.Event()

    def hold(*arguments: Any) -> Engine:
        begun.set()
        assert go_on.wait(60)
        return open_engine(*arguments)

    monkeypatch.setattr("service.dataplane.open_engine", hold)
    loading = asyncio.create_task(repository.load(NAME))
    await asyncio.to_thread(begun.wait, 60)
    loading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await loading
    assert repository.model(NAME) is old
    go_on.set()
    await repository.load(NAME)  # after the one that was left alone
    assert repository.model(NAME) is not old
    assert lanes() == 1


async def test_who_stops_is_ready_for_nothing_and_loads_nothing(repository: Repository) -> None:
    plane = repository.model(NAME)
    repository.stop()
    for reason in (repository.reason, repository.reason_of(plane), repository.index()[0].reason):
        assert "is stopping" in reason
    assert repository.index()[0].state == "UNAVAILABLE"
    with pytest.raises(Unavailable, match="is stopping"):
        await repository.load(NAME)
    assert (await probabilities(plane)).shape == (2, 4)  # for what was accepted before


async def test_an_error_that_nobody_foresaw_is_a_refusal_too(
    repository: Repository, shelf: Shelf, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise MemoryError("no room")

    shelf.before_open = fail
    with pytest.raises(Unavailable, match="the one before is served"):
        await repository.load(NAME)
    assert "Traceback" in caplog.text
    assert "no room" in caplog.text


async def test_a_repository_that_is_closed_loads_nothing_more(
    repository: Repository, lanes: Lanes
) -> None:
    loading = [asyncio.create_task(repository.load(NAME)) for _ in range(2)]
    await asyncio.sleep(0)
    await repository.close()
    for outcome in await asyncio.gather(*loading, return_exceptions=True):
        assert outcome is None or isinstance(outcome, Unavailable)
    with pytest.raises(Unavailable, match="stopping"):
        await repository.load(NAME)
    assert lanes() == 0


async def test_a_served_model_that_breaks_ends_the_server(
    repository: Repository, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lose(*_: object) -> None:
        raise SystemExit("the device fell off")

    monkeypatch.setattr(StageRuntime, "run", lose)
    with pytest.raises(Unavailable):
        await repository.model(NAME).predict(ROWS)
    assert len(shelf.told) == 1
    assert "about to end" in repository.reason


async def test_who_wants_to_know_hears_when_another_model_is_served(
    shelf: Shelf, lanes: Lanes
) -> None:
    told: list[int] = []
    repository = Repository([shelf.open], settled=lambda: told.append(len(repository.index())))
    await repository.start()
    await repository.load(repository.default)
    await repository.unload(repository.default)
    assert told == [1, 1, 1]
    await repository.close()
