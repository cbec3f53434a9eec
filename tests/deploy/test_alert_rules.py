"""The rules of Prometheus, what the dashboard asks for, and the page that explains both."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry

from service.metric_families import MetricFamilies
from tests.conftest import ROOT
from tests.deploy.prometheus_server import CONFIG, RULES, program

RULES_TEST = RULES.with_name("rules_test.yml")
DASHBOARD = ROOT / "deploy" / "grafana" / "offramp.json"
PAGE = ROOT / "docs" / "monitoring.md"
ALERTS: list[dict[str, Any]] = [
    rule
    for group in yaml.safe_load(RULES.read_text())["groups"]
    for rule in group["rules"]
    if "alert" in rule
]
NAMES = [rule["alert"] for rule in ALERTS]


def promtool(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [program("promtool"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def families() -> Iterator[tuple[str, set[str]]]:
    """The name of every metric, and those of its series."""
    for metric in MetricFamilies(CollectorRegistry()).registry.collect():
        name = f"{metric.name}_total" if metric.type == "counter" else metric.name
        parts = ("_bucket", "_sum", "_count")
        yield name, {name + part for part in parts} if metric.type == "histogram" else {name}


def series_in(text: str) -> set[str]:
    """Series of the service; what the rules record has a colon in its name."""
    tokens = re.findall(r"[A-Za-z_][\w:]*", text)
    return {token for token in tokens if token.startswith("offramp_") and ":" not in token}


def test_promtool_takes_the_example_config_and_its_rules() -> None:
    checked = promtool("check", "config", CONFIG)
    assert checked.returncode == 0, checked.stderr


def test_alerts_fire_on_bad_series_and_are_silent_on_good_ones() -> None:
    tested = promtool("test", "rules", RULES_TEST)
    assert tested.returncode == 0, tested.stdout + tested.stderr


def test_an_alert_that_does_not_fire_is_noticed(tmp_path: Path) -> None:
    rules, threshold = RULES.read_text(), "refused:ratio_rate5m > 0.05"
    assert threshold in rules
    (tmp_path / RULES.name).write_text(rules.replace(threshold, "refused:ratio_rate5m > 0.5"))
    (tmp_path / RULES_TEST.name).write_text(RULES_TEST.read_text())
    assert promtool("test", "rules", tmp_path / RULES_TEST.name).returncode == 1


def test_every_alert_is_seen_firing() -> None:
    assert set(firing_labels()) == set(NAMES)


def firing_labels() -> dict[str, set[str]]:
    """The labels that each alert has where it fires, by the rules' own tests."""
    expected = re.findall(r'ALERTS\{alertname="(\w+)",(.*)\}', RULES_TEST.read_text())
    return {name: set(re.findall(r"(\w+)=", labels)) for name, labels in expected}


@pytest.mark.parametrize("rule", ALERTS, ids=NAMES)
def test_an_alert_says_what_it_is_and_what_to_do(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in ("critical", "warning")
    words = rule["annotations"]
    assert set(words) == {"summary", "description", "runbook_url"}
    used = set(re.findall(r"\$labels\.(\w+)", " ".join(words.values())))
    optional = {"instance"} if rule["alert"] == "OfframpDown" else set()
    assert used <= firing_labels()[rule["alert"]] | optional
    page, anchor = words["runbook_url"].split("#")
    assert ROOT / page == PAGE
    assert anchor == rule["alert"].lower()
    assert f"### {rule['alert']}\n" in PAGE.read_text()


def test_the_rules_ask_for_series_that_exist() -> None:
    known = set().union(*(series for _, series in families()))
    asked = series_in(RULES.read_text())
    assert len(asked) > 10
    assert asked <= known
    assert series_in(RULES_TEST.read_text()) <= known


def test_the_dashboard_shows_every_metric_and_no_other() -> None:
    asked = series_in(DASHBOARD.read_text())
    assert asked <= set().union(*(series for _, series in families()))
    assert [name for name, series in families() if not series & asked] == []


def test_the_page_explains_every_metric() -> None:
    assert set(explained_metrics()) == {name for name, _ in families()}


def explained_metrics() -> dict[str, set[str]]:
    """Every metric in the page's table, with its labels."""
    table = re.findall(r"^\| `(offramp_\w+)` \|(.*?)\|", PAGE.read_text(), re.MULTILINE)
    return {name: set(re.findall(r"`(\w+)`", labels)) for name, labels in table}
