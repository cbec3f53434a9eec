from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from models.bundle import MANIFEST, MODEL, Bundle, read_bundle
from service.dataplane import Dataplane
from service.http import create_app
from service.locks import Locks
from service.metrics import Metrics
from service.multipart import read_form
from service.reloading import Reloading
from service.repository import OnBroken, OpenModel, Repository
from service.settings import Settings
from tests.service.conftest import counted
from tests.small_bundles import Kind, small_bundle, small_image

NUMBERS, IMAGE = "small-numbers", "small-image"


@dataclass
class Served:
    """Two models and who loads them again; their bundles lie in a folder, by kind."""

    folder: Path
    repository: Repository
    metrics: Metrics
    reloading: Reloading

    def put(self, kind: Kind, seed: int) -> Bundle:
        """Another bundle in the place of the one that is there, in one step."""
        fresh = small_bundle(self.folder / f"{kind}-{seed}", kind, seed).path
        link = self.folder / "link"
        link.symlink_to(fresh)
        link.replace(self.folder / kind)
        return read_bundle(fresh)

    def digest(self, name: str = NUMBERS) -> str:
        return self.repository.model(name).manifest.digest

    def loads(self, outcome: str, name: str = NUMBERS) -> float:
        return counted(self.repository.model(name).metrics, "loads_total", outcome=outcome)


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110  # what ends it is in the metrics only
        await asyncio.sleep(0.01)


@asynccontextmanager
async def serving(folder: Path) -> AsyncIterator[Served]:
    metrics = Metrics()

    def opener(place: Path) -> OpenModel:
        settings = Settings(bundle=str(place), lanes=1, threads=1)

        def open_model(on_broken: OnBroken) -> Dataplane:
            return Dataplane(read_bundle(place), settings, metrics, on_broken)

        return open_model

    kinds: tuple[Kind, ...] = ("numbers", "image")
    for kind in kinds:
        (folder / kind).symlink_to(small_bundle(folder / f"{kind}-0", kind).path)
    repository = Repository([opener(folder / kind) for kind in kinds])
    await repository.start()
    bundles = {NUMBERS: str(folder / "numbers"), IMAGE: str(folder / "image")}
    yield Served(folder, repository, metrics, Reloading(repository, bundles))
    await repository.close()


async def test_a_look_loads_what_has_changed_and_nothing_else(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        image = served.repository.model(IMAGE)
        await served.reloading.look()
        assert served.loads("ok") == 0
        fresh = served.put("numbers", seed=1)
        await served.reloading.look()
        assert served.digest() == fresh.manifest.digest
        assert served.loads("ok") == 1
        await served.reloading.look()
        assert (served.loads("ok"), served.loads("refused")) == (1, 0)
        assert served.repository.model(IMAGE) is image


async def test_the_same_bundle_written_again_is_not_loaded(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        await served.reloading.look()
        plane = served.repository.model(NUMBERS)
        shutil.copytree(tmp_path / "numbers-0", tmp_path / "copy")
        (tmp_path / "numbers").unlink()
        (tmp_path / "copy").rename(tmp_path / "numbers")
        await served.reloading.look()
        assert served.repository.model(NUMBERS) is plane


async def test_a_bad_bundle_is_refused_once_until_it_changes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(tmp_path) as served:
        before = served.digest()
        fresh = served.put("numbers", seed=1)
        whole = (fresh.path / MODEL).read_bytes()
        (fresh.path / MODEL).write_bytes(whole[:-1])
        for _ in range(3):
            await served.reloading.look()
        assert served.loads("refused") == 1
        assert caplog.text.count("event=load_failed model=small-numbers") == 1
        assert "was altered or truncated" in caplog.text
        assert served.digest() == before
        (fresh.path / MODEL).write_bytes(whole)
        await served.reloading.look()
        assert served.digest() == fresh.manifest.digest
        assert (served.loads("ok"), served.loads("refused")) == (1, 1)


@pytest.mark.parametrize("order", [(MANIFEST, MODEL), (MODEL, MANIFEST)])
async def test_a_bundle_that_is_copied_file_by_file_is_loaded_when_it_is_whole(
    tmp_path: Path, order: tuple[str, str]
) -> None:
    async with serving(tmp_path) as served:
        before = served.digest()
        fresh = small_bundle(tmp_path / "fresh", "numbers", seed=1)
        for file in order:
            assert served.digest() == before
            half = (fresh.path / file).read_bytes()
            (tmp_path / "numbers-0" / file).write_bytes(half[: len(half) // 2])
            await served.reloading.look()
            assert served.digest() == before
            (tmp_path / "numbers-0" / file).write_bytes(half)
            await served.reloading.look()
        assert served.digest() == fresh.manifest.digest


async def test_a_bundle_that_is_gone_for_a_while_changes_nothing(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        plane = served.repository.model(NUMBERS)
        (tmp_path / "numbers").unlink()
        await served.reloading.look()
        (tmp_path / "numbers").symlink_to(tmp_path / "numbers-0")
        await served.reloading.look()
        assert served.repository.model(NUMBERS) is plane
        assert served.loads("refused") == 1


async def test_what_a_client_has_unloaded_stays_so(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        await served.repository.unload(NUMBERS)
        fresh = served.put("numbers", seed=1)
        await served.reloading.look()
        assert [model.state for model in served.repository.index()] == ["UNAVAILABLE", "READY"]
        await served.repository.load(NUMBERS)
        assert served.digest() == fresh.manifest.digest


async def test_all_are_loaded_again_when_asked_and_a_bad_one_hinders_no_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="bentoml.offramp")
    async with serving(tmp_path) as served:
        (tmp_path / "numbers-0" / MANIFEST).unlink()
        loading = asyncio.create_task(served.reloading.when_asked())
        for _ in range(3):
            served.reloading.ask()
        await until(lambda: served.loads("ok", IMAGE) == 1)
        assert (served.loads("ok"), served.loads("refused")) == (0, 1)
        assert caplog.text.count("event=reload model=small-image by=signal") == 1
        served.reloading.ask()
        await until(lambda: served.loads("ok", IMAGE) == 2)
        loading.cancel()


async def test_the_watch_goes_on_after_a_bundle_that_it_refused(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        watching = asyncio.create_task(served.reloading.watch(0.01))
        fresh = served.put("numbers", seed=1)
        (fresh.path / MODEL).rename(tmp_path / "aside")
        await until(lambda: served.loads("refused") == 1)
        (tmp_path / "aside").rename(fresh.path / MODEL)
        await until(lambda: served.digest() == fresh.manifest.digest)
        watching.cancel()


async def test_a_form_that_is_read_meanwhile_is_answered_by_the_model_that_it_was_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading, go_on = asyncio.Event(), asyncio.Event()

    async def slow(*arguments: Any) -> Any:
        reading.set()
        await go_on.wait()
        return await read_form(*arguments)

    monkeypatch.setattr("service.predict_door.read_form", slow)
    async with serving(tmp_path) as served:
        settings = Settings()
        app = create_app(served.repository, served.metrics, settings, Locks(settings))
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://door") as client:
            files = {"image": small_image()}
            asked = client.post(f"/predict?model={IMAGE}", files=files)
            request = asyncio.create_task(asked)
            await reading.wait()
            old, fresh = served.repository.model(IMAGE), served.put("image", seed=1)
            loading = asyncio.create_task(served.repository.load(IMAGE))
            await until(lambda: served.digest(IMAGE) == fresh.manifest.digest)
            go_on.set()
            response = await request
            await loading
        assert response.status_code == 200, response.text
        assert old.statistics.success.count == 1
