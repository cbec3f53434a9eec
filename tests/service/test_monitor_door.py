from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest
from starlette.testclient import TestClient

from models.bundle import Bundle
from service.dataplane import Dataplane
from tests.service.conftest import app_over, serving

SHADOW = {"shadow_share": 1.0, "repository_calls": True}


async def fall_back(plane: Dataplane, lost: np.ndarray) -> None:
    async with asyncio.timeout(60):
        while not plane.monitor.fallback:
            await plane.predict(lost)
            await asyncio.sleep(0)


async def test_the_status_says_what_was_found(
    bundle: Bundle, rows: np.ndarray, lost: np.ndarray
) -> None:
    async with serving(bundle, **SHADOW) as plane:
        with TestClient(app_over(plane, **SHADOW)) as client:
            (before,) = client.get("/monitor").json()
            await fall_back(plane, rows[lost][:40])
            (after,) = client.get("/monitor").json()
            ready = client.get("/v2/health/ready").json()
            (model,) = client.post("/v2/repository/index").json()
            stats = client.get("/stats").json()
    assert (before["model"], before["version"]) == (plane.name, plane.version)
    assert (before["policy"], before["fell_back"]) == ("certified", None)
    assert before["limit"] == {"set-agreement": 0.25}
    assert before["alarm_at"] == pytest.approx(100)
    assert after["policy"] == "full"
    assert "full depth since" in ready["notes"][plane.name]
    assert (model["state"], model["reason"]) == ("READY", ready["notes"][plane.name])
    assert stats["certificate"] == model["reason"]
    assert after["fell_back"]["rows"] == after["rows"] > 0
    assert after["loss"]["set-agreement"] > 0.5


@pytest.mark.parametrize("body", [None, {}, {"model": "digits"}])
async def test_a_reset_serves_the_policy_again(
    bundle: Bundle, rows: np.ndarray, lost: np.ndarray, body: dict[str, str] | None
) -> None:
    async with serving(bundle, **SHADOW) as plane:
        await fall_back(plane, rows[lost][:40])
        with TestClient(app_over(plane, **SHADOW)) as client:
            answer = client.post("/monitor/reset", json=body)
            assert answer.status_code == 200
            assert answer.json() == client.get("/monitor").json()[0]
        assert answer.json()["policy"] == "certified"
        assert plane.monitor.fallback is None


async def test_a_reset_that_is_not_allowed_is_refused_and_changes_nothing(
    bundle: Bundle, rows: np.ndarray, lost: np.ndarray
) -> None:
    async with serving(bundle, shadow_share=1.0) as plane:
        await fall_back(plane, rows[lost][:40])
        with TestClient(app_over(plane)) as client:
            answer = client.post("/monitor/reset")
        assert answer.status_code == 403
        assert "OFFRAMP_REPOSITORY_CALLS=true" in answer.json()["error"]
        assert plane.monitor.fallback


@pytest.mark.parametrize(
    ("body", "status", "told"),
    [
        (b"{", 400, "no JSON"),
        (b'{"name": "x"}', 400, "name"),
        (b'{"model": 3}', 400, "a text"),
        (b'{"model": "other"}', 404, "other"),
    ],
)
def test_a_reset_of_nothing_is_refused(
    dataplane: Dataplane, body: bytes, status: int, told: str
) -> None:
    with TestClient(app_over(dataplane, **SHADOW)) as client:
        answer = client.post("/monitor/reset", content=body)
    assert answer.status_code == status
    assert told in answer.json()["error"]


def test_a_reset_is_an_admins_call(dataplane: Dataplane, tmp_path: Path) -> None:
    keys, admins = tmp_path / "keys", tmp_path / "admins"
    keys.write_text("client-key-of-some-length\n")
    admins.write_text("admin-key-of-some-length\n")
    app = app_over(dataplane, **SHADOW, keys_file=keys, admin_keys_file=admins)
    client_key = {"authorization": "Bearer client-key-of-some-length"}
    admin_key = {"authorization": "Bearer admin-key-of-some-length"}
    with TestClient(app) as client:
        assert client.get("/monitor").status_code == 401
        assert client.get("/monitor", headers=client_key).status_code == 200
        assert client.post("/monitor/reset", headers=client_key).status_code == 403
        assert client.post("/x/monitor/reset", headers=client_key).status_code == 403
        assert client.post("/monitor/reset", headers=admin_key).status_code == 200
