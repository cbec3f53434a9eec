from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from models.bundle import Bundle
from models.errors import Unavailable
from models.runtime import Answers, StageRuntime
from service import monitor as monitor_module
from service.dataplane import Dataplane
from service.options import Options
from service.request import Job, Priority, Routed
from tests.service.conftest import Gate, cold_dataplane, counted, serving

ALL = {"shadow_share": 1.0}


@pytest.fixture(scope="module")
def everywhere(runtime: StageRuntime, rows: np.ndarray) -> list[Answers]:
    """Every exit's answers to all rows, computed offline."""
    return runtime.all_exits((rows,))


@pytest.fixture(scope="module")
def route(bundle: Bundle, everywhere: list[Answers]) -> np.ndarray:
    """Where every row leaves: int (n,)."""
    return bundle.manifest.policy.route([answers.score for answers in everywhere])


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what a shadow run or a thread brings about."""
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 (nobody sets an event)
            await asyncio.sleep(0.01)


def compared_rows(plane: Dataplane) -> float:
    return counted(plane.metrics, "monitor_rows_total", outcome="compared")


async def compared(plane: Dataplane, rows: int) -> None:
    """Wait until so many rows are compared."""
    await until(lambda: compared_rows(plane) >= rows)


async def until_it_falls_back(plane: Dataplane, rows: np.ndarray, at_most: int = 50) -> int:
    """Send rows that lose something again and again; how often it took."""
    for times in range(1, at_most + 1):
        await plane.predict(rows)
        await compared(plane, times * len(rows))
        if plane.monitor.fallback:
            return times
    raise AssertionError("it did not fall back")


async def test_rows_that_left_early_are_compared_with_full_depth(
    bundle: Bundle, rows: np.ndarray, route: np.ndarray, lost: np.ndarray
) -> None:
    async with serving(bundle, **ALL, monitor_alpha=1e-9) as plane:
        for start in range(0, 400, 50):
            await plane.predict(rows[start : start + 50])
            await compared(plane, start + 50)
        status = plane.monitor.status()
        assert status["rows"] == 400
        assert status["loss"]["set-agreement"] == pytest.approx(lost.mean(), abs=0.003)
        assert counted(plane.metrics, "shadow_rows_total") == (route < 4).sum()
        assert counted(plane.metrics, "exits_total", exit="1") == (route == 1).sum()
        assert counted(plane.metrics, "rows_total", outcome="answered") == 400
        assert counted(plane.metrics, "policy_certified") == 1
        assert counted(plane.metrics, "monitor_limit", promise="set-agreement") == 0.25
    assert status["policy"] == "certified"


async def test_streamed_rows_are_compared_too(bundle: Bundle, rows: np.ndarray) -> None:
    async with serving(bundle, **ALL) as plane:
        async for _ in plane.stream(rows[:30]):
            pass
        await compared(plane, 30)


@pytest.mark.parametrize(
    "options",
    [
        Options(policy="full"),
        Options(policy="exit:1"),
        Options(max_exit=2),
        Options(all_exits=True),
    ],
)
async def test_rows_that_the_policy_does_not_route_say_nothing_of_it(
    bundle: Bundle, rows: np.ndarray, options: Options
) -> None:
    async with serving(bundle, **ALL) as plane:
        await plane.predict(rows[:20], options)
        await plane.predict(rows[:3])
        await compared(plane, 3)
        assert plane.monitor.status()["rows"] == 3


async def test_where_more_is_lost_than_promised_it_falls_back_and_says_so(
    bundle: Bundle, rows: np.ndarray, lost: np.ndarray, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(bundle, **ALL) as plane:
        with caplog.at_level(logging.WARNING):
            await until_it_falls_back(plane, rows[lost][:40])
        (line,) = [text for text in caplog.messages if "fell_back" in text]
        assert f"model=digits version={plane.version}" in line
        status = plane.monitor.status()
        assert status["policy"] == "full"
        assert status["fell_back"]["evidence"] >= status["alarm_at"]
        assert counted(plane.metrics, "policy_certified") == 0
        assert counted(plane.metrics, "fallbacks_total") == 1
        prediction = await plane.predict(rows[:40])
        assert (prediction.routed.exits == 4).all()
        assert prediction.certified.all()
        assert plane.ready


async def test_after_a_fallback_what_was_asked_for_by_name_is_still_given(
    bundle: Bundle, rows: np.ndarray, lost: np.ndarray
) -> None:
    async with serving(bundle, **ALL) as plane:
        await until_it_falls_back(plane, rows[lost][:40])
        prediction = await plane.predict(rows[:40], Options(policy="exit:1"))
        assert (prediction.routed.exits == 1).all()
        assert not prediction.certified.any()
        prediction = await plane.predict(rows[:40], Options(max_exit=2))
        assert (prediction.routed.exits == 2).all()
        assert not prediction.certified.any()


async def test_a_reset_brings_the_policy_back_and_forgets_the_evidence(
    bundle: Bundle, rows: np.ndarray, route: np.ndarray, lost: np.ndarray
) -> None:
    async with serving(bundle, **ALL) as plane:
        await until_it_falls_back(plane, rows[lost][:40])
        plane.monitor.reset()
        prediction = await plane.predict(rows[:40])
        np.testing.assert_array_equal(prediction.routed.exits, route[:40])
        assert plane.monitor.status()["evidence"] == 1.0
        assert counted(plane.metrics, "policy_certified") == 1


async def test_rows_are_handed_over_as_they_were_drawn(
    bundle: Bundle, rows: np.ndarray, route: np.ndarray, gates: list[Gate]
) -> None:
    """One that needs no shadow run waits for one before it that does."""
    early, deep = np.flatnonzero(route == 1)[:1], np.flatnonzero(route == 4)[:1]
    async with serving(bundle, **ALL) as plane:
        await plane.predict(rows[deep])
        await compared(plane, 1)
        gates.append(Gate(stage=2))
        await plane.predict(rows[early])
        later = asyncio.create_task(plane.predict(rows[deep]))
        await asyncio.to_thread(gates[0].reached.wait, 60)
        assert compared_rows(plane) == 1
        gates[0].opened.set()
        await later
        await compared(plane, 3)


async def test_while_many_rows_wait_none_are_drawn_and_others_are_answered(
    bundle: Bundle, rows: np.ndarray, route: np.ndarray, gates: list[Gate]
) -> None:
    """A shadow run stands in one of two lanes."""
    early = rows[route == 1]
    async with serving(bundle, **ALL, lanes=2) as plane:
        gates.append(Gate(stage=2))
        for _ in range(5):
            await plane.predict(early[:30])
            await asyncio.to_thread(gates[0].reached.wait, 60)
            await asyncio.sleep(0.05)  # the lane in it is not expected back any moment
        gates[0].opened.set()
        await compared(plane, 90)
        assert plane.monitor.status()["rows"] == 90


async def test_a_request_that_fails_is_skipped(
    bundle: Bundle, rows: np.ndarray, gates: list[Gate]
) -> None:
    async with serving(bundle, **ALL) as plane:
        gates.append(Gate(stage=1))
        call = asyncio.create_task(plane.predict(rows[:5]))
        await asyncio.to_thread(gates[0].reached.wait, 60)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        gates[0].opened.set()
        await plane.predict(rows[:4])
        await compared(plane, 4)
        assert counted(plane.metrics, "monitor_rows_total", outcome="skipped") == 5
        assert plane.monitor.status()["rows"] == 4


async def test_a_share_of_the_rows_is_drawn(bundle: Bundle, rows: np.ndarray) -> None:
    async with serving(bundle, shadow_share=0.2) as plane:
        for start in range(0, 400, 40):
            await plane.predict(rows[start : start + 40])
    drawn = sum(
        counted(plane.metrics, "monitor_rows_total", outcome=outcome)
        for outcome in ("compared", "skipped")
    )
    assert 40 < drawn < 130  # 80 are to be expected; 5 standard deviations


async def test_drift_is_exposed_by_label_and_by_score(bundle: Bundle, rows: np.ndarray) -> None:
    names = bundle.manifest.labels
    async with serving(bundle, **ALL, monitor_alpha=1e-9) as plane:
        for start in range(0, 400, 50):
            await plane.predict(rows[start : start + 50])
        usual = counted(plane.metrics, "drift_score_w1")
        noise = counted(plane.metrics, "drift_score_noise_w1")
        labels = [counted(plane.metrics, "drift_w1", label=name) for name in names]
        assert 0 < usual < 4 * noise
        assert all(label > 0 for label in labels)
        for _ in range(20):
            await plane.predict(1 - rows[:50])
        assert counted(plane.metrics, "drift_score_w1") > 4 * usual


async def test_evidence_and_fallback_survive_a_restart(
    bundle: Bundle, rows: np.ndarray, lost: np.ndarray, tmp_path: Path
) -> None:
    kept = {**ALL, "monitor_state": tmp_path}
    async with serving(bundle, **kept) as plane:
        await plane.predict(rows[:30])
        await compared(plane, 30)
        before = plane.monitor.status()
        plane.monitor.save()
    async with serving(bundle, **kept) as plane:
        assert {**plane.monitor.status(), "loss": 0} == {**before, "loss": 0}
        await until_it_falls_back(plane, rows[lost][:40])
        fell_back = plane.monitor.fallback
        plane.monitor.save()
    async with serving(bundle, **kept) as plane:
        assert plane.monitor.fallback == fell_back
        assert ((await plane.predict(rows[:20])).routed.exits == 4).all()
        plane.monitor.reset()
        plane.monitor.save()
    assert cold_dataplane(bundle, **kept).monitor.fallback is None


async def test_a_fallback_is_written_at_once(
    bundle: Bundle, rows: np.ndarray, lost: np.ndarray, tmp_path: Path
) -> None:
    async with serving(bundle, **ALL, monitor_state=tmp_path) as plane:
        await until_it_falls_back(plane, rows[lost][:40])
        path = tmp_path / f"{plane.version}.json"
        await until(path.exists)
    assert json.loads(path.read_text())["fell_back"]["rows"] > 0


async def test_evidence_is_written_now_and_then(
    bundle: Bundle, rows: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(monitor_module, "SAVE_SECONDS", 0.0)
    async with serving(bundle, **ALL, monitor_state=tmp_path) as plane:
        await plane.predict(rows[:10])
        await compared(plane, 10)
        await until(lambda: any(tmp_path.glob("*.json")))


async def test_a_damaged_state_is_a_fallback_until_a_reset(
    bundle: Bundle, rows: np.ndarray, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    version = bundle.manifest.version
    (tmp_path / f"{version}.json").write_text("{")
    async with serving(bundle, **ALL, monitor_state=tmp_path) as plane:
        assert plane.monitor.fallback is not None
        assert "cannot be read" in plane.monitor.fallback.reason
        assert f"{version}.json" in caplog.text
        assert ((await plane.predict(rows[:20])).routed.exits == 4).all()
        plane.monitor.reset()
        assert not ((await plane.predict(rows[:20])).routed.exits == 4).all()


async def test_where_the_state_cannot_be_written_serving_goes_on(
    bundle: Bundle, rows: np.ndarray, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("no folder")
    async with serving(bundle, **ALL) as plane:
        plane.monitor._state = monitor_module.MonitorState(tmp_path / "file", plane.version)
        for _ in range(3):
            plane.monitor.save()
        assert len((await plane.predict(rows[:5])).routed.exits) == 5
        assert counted(plane.metrics, "monitor_state_errors_total") == 3
    assert caplog.text.count("monitor_state_not_written") == 1


async def test_without_a_reference_nothing_is_watched(bundle: Bundle, rows: np.ndarray) -> None:
    bare = {name: content for name, content in bundle.files.items() if name != "reference.json"}
    old = Bundle(bundle.path, bundle.manifest, bare)
    async with serving(old, **ALL) as plane:
        await plane.predict(rows[:20])
        assert plane.monitor.status()["limit"] == {}
        assert compared_rows(plane) == 0
        assert counted(plane.metrics, "policy_certified") == 1


async def test_a_dataplane_over_the_same_bundle_takes_the_monitor_over(
    bundle: Bundle, rows: np.ndarray, lost: np.ndarray
) -> None:
    async with serving(bundle, **ALL) as plane:
        await until_it_falls_back(plane, rows[lost][:40])
        async with serving(bundle, **ALL) as fresh:
            fresh.take_over(plane)
            assert ((await fresh.predict(rows[:20])).routed.exits == 4).all()


async def test_a_shadow_run_that_finds_no_room_harms_nobody(
    bundle: Bundle, rows: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(bundle, **ALL) as plane:
        engine = plane._engine
        assert engine
        real = engine.run
        refused: list[Job] = []

        async def run(job: Job) -> Routed:
            if job.priority == Priority.SHADOW and not refused:
                refused.append(job)
                raise Unavailable("the service is stopping")
            return await real(job)

        monkeypatch.setattr(engine, "run", run)
        assert len((await plane.predict(rows[:20])).routed.exits) == 20
        await plane.predict(rows[:20])
        await compared(plane, 20)
        assert counted(plane.metrics, "monitor_rows_total", outcome="skipped") > 0
