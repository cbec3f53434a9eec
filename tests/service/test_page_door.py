from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from starlette.testclient import TestClient

from models.bundle import EXAMPLES, Bundle
from service.http import create_app
from service.locks import Locks
from service.page_door import FOLDER
from service.repository import Repository
from service.settings import Settings
from tests.service.conftest import app_over, cold_dataplane

SVG = "http://www.w3.org/2000/svg"


class Elements(HTMLParser):
    """Every element's name and attributes."""

    def __init__(self, document: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(document)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def linked(client: TestClient) -> set[str]:
    """Addresses of all that the page loads, of what its scripts import too."""
    elements = Elements(client.get("/ui").text).found
    addresses = {a[key] for _, a in elements for key in ("src", "href") if a.get(key)}
    scripts = FOLDER.glob("*.js")
    imported = {m for s in scripts for m in re.findall(r'from "\./([^"]+)"', s.read_text())}
    return {str(address) for address in addresses} | {f"ui/{name}" for name in imported}


def test_the_page_allows_nothing_but_its_own_files(client: TestClient) -> None:
    response = client.get("/ui")
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    policy = response.headers["content-security-policy"]
    assert policy.startswith("default-src 'self'; img-src 'self' data: blob:;")
    assert "unsafe" not in policy
    for tag, attributes in Elements(response.text).found:
        assert tag != "style"
        assert tag != "script" or attributes.get("src")
        assert not {name for name in attributes if name == "style" or name.startswith("on")}


def test_all_that_the_page_loads_is_there_and_is_what_it_says(client: TestClient) -> None:
    types = {"js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}
    addresses = linked(client)
    assert {f"ui/{path.name}" for path in FOLDER.iterdir()} - {"ui/index.html"} == addresses
    for address in addresses:
        response = client.get(f"/{address}")
        assert response.status_code == 200, address
        assert response.headers["content-type"].split(";")[0] == types[address.rpartition(".")[2]]
        assert response.headers["x-content-type-options"] == "nosniff"
        assert "content-security-policy" in response.headers


def test_scripts_make_no_markup_and_name_no_other_host() -> None:
    for script in FOLDER.glob("*.js"):
        text = script.read_text().replace(SVG, "")
        assert "http" not in text, script
        for forbidden in (
            "innerHTML",
            "outerHTML",
            "insertAdjacent",
            "document.write",
            "eval(",
        ):
            assert forbidden not in text, script


@pytest.mark.parametrize(
    "path",
    ["/ui/index.html", "/ui/nothing.js", "/ui/..%2fpage_door.py", "/ui/%2e%2e", "/ui/a%00.js"],
)
def test_nothing_else_is_given(client: TestClient, path: str) -> None:
    response = client.get(path)
    assert response.status_code == 404
    assert list(response.json()) == ["error", "request_id"]


def test_a_file_that_has_not_changed_is_not_sent_again(client: TestClient) -> None:
    first = client.get("/ui/app.js")
    again = client.get("/ui/app.js", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


def test_the_page_is_told_what_the_manifest_says(client: TestClient, bundle: Bundle) -> None:
    manifest = bundle.manifest
    facts = client.get("/ui/model").json()
    assert (facts["name"], facts["version"]) == (manifest.name, manifest.version)
    assert facts["labels"] == list(manifest.labels)
    assert facts["input"] == {"kind": "numbers", "shape": [1, 32, 32]}
    assert facts["certificate"] == {
        "state": "certified",
        "sentence": manifest.certificate.sentence,
    }
    assert facts["limits"] == {"rows": 64, "body_bytes": 2**20}
    assert [exit_["threshold"] for exit_ in facts["exits"]] == [e.threshold for e in manifest.exits]
    assert [exit_["time"] for exit_ in facts["exits"]] == [e.time for e in manifest.test.exits]
    layers = facts["profile"]["layers"]
    assert [layer["exit"] for layer in layers if layer["exit"]] == [1, 2, 3, 4]
    for layer, recorded in zip(layers, manifest.profile.layers, strict=True):
        assert layer["to_labels"] == recorded.to_labels.w2.model_dump()
        assert layer["to_teacher"] == recorded.to_teacher.w2.model_dump()


def test_the_time_of_a_row_alone_is_that_of_the_policys_definition(
    client: TestClient, bundle: Bundle
) -> None:
    """Weighted by the shares that leave, it is the mean that calibration has recorded."""
    exits = client.get("/ui/model").json()["exits"]
    mean = sum(exit_["time_single"] * exit_["share_leaving"] for exit_ in exits)
    assert mean == pytest.approx(bundle.manifest.test.policy.computed_time_single)


def test_examples_are_rows_that_leave_at_different_exits(client: TestClient) -> None:
    examples = client.get("/ui/examples").json()
    assert len(examples) == 6
    body = client.post("/predict", json={"rows": [example["row"] for example in examples]}).json()
    exits = [row["exit"] for row in body["rows"]]
    assert exits[:4] == [1, 2, 3, 4]
    assert all(set(example["labels"]) <= set("0123456789") for example in examples)


def test_a_bundle_without_examples_has_an_empty_list(bundle: Bundle) -> None:
    files = {name: file for name, file in bundle.files.items() if name != EXAMPLES}
    assert len(files) < len(bundle.files)
    plane = cold_dataplane(replace(bundle, files=files))
    assert TestClient(app_over(plane)).get("/ui/examples").json() == []


def test_stats_count_what_was_answered(client: TestClient, rows: np.ndarray) -> None:
    before = client.get("/stats").json()
    answered = client.post("/predict", json={"rows": rows[:20].tolist()}).json()["rows"]
    for _ in range(2):
        refused = client.post("/predict", json={"rows": rows[:1].tolist(), "policy": "x"})
        assert refused.status_code == 400
    after = client.get("/stats").json()
    assert after["rows"] - before["rows"] == 20
    assert after["requests"]["ok"] - before["requests"]["ok"] == 1
    assert after["requests"]["failed"] - before["requests"]["failed"] == 2
    for old, new in zip(before["exits"], after["exits"], strict=True):
        left = sum(row["exit"] == new["exit"] for row in answered)
        assert new["rows"] - old["rows"] == left
    assert sum(exit_["share"] for exit_ in after["exits"]) == pytest.approx(1)
    times = after["milliseconds"]
    assert 0 < times["p50"] <= times["p95"] <= times["p99"]
    assert (after["ready"], after["reason"], after["certificate"]) == (True, "", "certified")
    assert after["uptime_seconds"] >= before["uptime_seconds"] >= 0


def test_stats_of_a_service_that_warms_up_say_so(bundle: Bundle) -> None:
    stats = TestClient(app_over(cold_dataplane(bundle))).get("/stats").json()
    assert not stats["ready"]
    assert "warming up" in stats["reason"]
    assert stats["rows"] == 0
    assert stats["milliseconds"] is None
    assert {exit_["share"] for exit_ in stats["exits"]} == {0}


@pytest.mark.parametrize("path", ["/stats", "/ui/model", "/ui/examples"])
async def test_an_unloaded_model_is_told_in_words(bundle: Bundle, path: str) -> None:
    plane, settings = cold_dataplane(bundle), Settings()
    repository = Repository([lambda _: plane])
    app = create_app(repository, plane.metrics, settings, Locks(settings))
    await repository.unload("digits")
    response = TestClient(app).get(path)
    assert response.status_code == 503
    assert "not loaded" in json.loads(response.content)["error"]


@pytest.mark.parametrize("path", ["/ui", "/ui/app.js", "/ui/model", "/stats"])
def test_nothing_here_takes_a_post(client: TestClient, path: str) -> None:
    assert client.post(path).status_code == 405
