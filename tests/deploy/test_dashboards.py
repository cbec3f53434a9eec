"""The dashboard and its queries, by a real Prometheus that scrapes a real server."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import sys
import time
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.bundle import Bundle, read_bundle
from tests.conftest import ROOT
from tests.deploy.prometheus_server import SECONDS, Prometheus, program, prometheus
from tests.deploy.test_alert_rules import explained_metrics
from tests.deploy.traffic import FAULTY_SERVICE, SETTINGS, Traffic
from tests.end_to_end.server import free_port, running

BENTOML = Path(sys.executable).parent / "bentoml"
KEY = "a-key-of-the-tests-alone"
DASHBOARD = json.loads((ROOT / "deploy" / "grafana" / "offramp.json").read_text())
VARIABLES = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
SCRAPED = {"__name__", "job", "instance", "model", "le"}
"""Labels that the page does not name."""
QUERIES = [
    pytest.param(target["expr"], id=f"{panel['title']}-{target['refId']}")
    for panel in PANELS
    for target in panel["targets"]
]


@pytest.fixture(scope="module")
def traffic(
    tmp_path_factory: pytest.TempPathFactory, bundle: Bundle, rows: np.ndarray
) -> Iterator[Traffic]:
    """To a server with a bundle of its own, that can be damaged, and a key before its metrics."""
    program("prometheus")
    folder = tmp_path_factory.mktemp("served")
    shutil.copytree(bundle.path, folder / "bundle")
    (folder / "faulty.py").write_text(FAULTY_SERVICE)
    (folder / "keys").write_text(KEY)
    environment = SETTINGS | {
        "PYTHONPATH": str(ROOT),
        "OFFRAMP_BUNDLE": str(folder / "bundle"),
        "OFFRAMP_KEYS_FILE": str(folder / "keys"),
        "OFFRAMP_METRICS_KEY": "true",
        "OFFRAMP_MONITOR_STATE": str(folder / "state"),
    }
    port = free_port()
    command = [BENTOML, "serve", "faulty:Offramp", "--host", "127.0.0.1", "--port", port]
    with running(command, port, folder, folder / "log", **environment) as server:
        own = read_bundle(folder / "bundle")
        yield Traffic(server.url, folder, own, rows, {"Authorization": f"Bearer {KEY}"})


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory, traffic: Traffic) -> Iterator[Prometheus]:
    """A Prometheus that has seen traffic of all kinds."""
    target = traffic.url.removeprefix("http://")
    with prometheus(tmp_path_factory.mktemp("prometheus"), target, KEY) as watching:
        watching.wait_for_scrape()
        for _ in range(2):  # a series that begins has no rate yet
            asyncio.run(traffic.send())
            watching.wait_for_scrape()
        asyncio.run(traffic.change_bundles())
        make_unwritable(traffic.folder / "state")
        asyncio.run(traffic.reset_monitor())
        watching.wait_for_scrape()
        yield watching


def make_unwritable(folder: Path) -> None:
    """Also for root: where the directory was, there is a file."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.touch()


def filled_in(query: str, model: str) -> str:
    """A query as Grafana sends it."""
    values = {
        "__rate_interval": "10s",
        "__range": "5m",
        "job": "offramp",
        "instance": ".+",
        "model": model,
    }
    return re.sub(r"\$(\w+)", lambda match: values[match[1]], query)


@pytest.mark.slow
@pytest.mark.parametrize("query", QUERIES)
def test_every_query_of_the_dashboard_finds_data(
    watched: Prometheus, bundle: Bundle, query: str
) -> None:
    assert watched.values(filled_in(query, bundle.manifest.name))


@pytest.mark.slow
@pytest.mark.parametrize("annotation", [each["name"] for each in DASHBOARD["annotations"]["list"]])
def test_annotations_are_queries(watched: Prometheus, bundle: Bundle, annotation: str) -> None:
    (query,) = (e["expr"] for e in DASHBOARD["annotations"]["list"] if e["name"] == annotation)
    watched.values(filled_in(query, bundle.manifest.name))


@pytest.mark.slow
def test_variables_offer_what_is_there(watched: Prometheus, bundle: Bundle) -> None:
    found = {}
    for name in ("job", "instance", "model"):
        query = filled_in(VARIABLES[name]["query"]["query"], bundle.manifest.name)
        series, label = re.fullmatch(r"label_values\((.+), (\w+)\)", query).groups()
        found[name] = watched.get(f"label/{label}/values", **{"match[]": series})
    assert found["job"] == ["offramp"]
    assert len(found["instance"]) == 1
    assert found["model"] == [bundle.manifest.name]


@pytest.mark.slow
def test_every_rule_works_and_every_recorded_series_is_there(watched: Prometheus) -> None:
    rules = watched.rules()
    assert {rule["type"] for rule in rules} == {"recording", "alerting"}
    assert [rule for rule in rules if rule["health"] != "ok"] == []
    recorded = [rule["name"] for rule in rules if rule["type"] == "recording"]
    assert [name for name in recorded if not watched.values(name)] == []


@pytest.mark.slow
@pytest.mark.parametrize("alert", ["OfframpLoadRefused", "OfframpMonitorStateLost"])
def test_what_went_wrong_for_the_first_time_is_told_in_words(
    watched: Prometheus, bundle: Bundle, alert: str
) -> None:
    until = time.monotonic() + SECONDS
    while not (alerts := active(watched, alert)):
        assert time.monotonic() < until
        time.sleep(0.1)
    (one,) = alerts
    words = " ".join(one["annotations"].values())
    assert one["state"] == "firing"
    assert bundle.manifest.name in words
    assert "<" not in words  # <no value>, <error expanding template: …>


def active(watched: Prometheus, alert: str) -> list[dict[str, Any]]:
    (rule,) = (rule for rule in watched.rules() if rule["name"] == alert)
    return rule["alerts"]


@pytest.mark.slow
def test_every_metric_has_the_labels_that_the_page_says(
    watched: Prometheus, bundle: Bundle
) -> None:
    found: dict[str, set[str]] = {}
    for series in watched.get("series", **{"match[]": '{__name__=~"offramp_.+"}'}):
        name = re.sub("_(bucket|sum|count)$", "", series["__name__"])
        assert series["model"] == bundle.manifest.name
        found.setdefault(name, set()).update(series.keys() - SCRAPED)
    assert found == explained_metrics()


def test_panels_neither_overlap_nor_leave_the_grid() -> None:
    def cells(panel: dict[str, Any]) -> set[tuple[int, int]]:
        x, y, w, h = (panel["gridPos"][side] for side in "xywh")
        assert x + w <= 24
        return {(column, line) for column in range(x, x + w) for line in range(y, y + h)}

    for one, other in combinations(DASHBOARD["panels"], 2):
        assert one["id"] != other["id"]
        assert not cells(one) & cells(other), (one["title"], other["title"])


@pytest.mark.parametrize("panel", PANELS, ids=[panel["title"] for panel in PANELS])
def test_a_panel_has_a_unit_and_says_what_to_do(panel: dict[str, Any]) -> None:
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert panel["description"].endswith(".")
    assert panel["datasource"]["uid"] == "${datasource}"
    used = {name for target in panel["targets"] for name in re.findall(r"\$(\w+)", target["expr"])}
    assert used <= {*VARIABLES, "__rate_interval", "__range"}
