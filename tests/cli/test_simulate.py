from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from cli.main import app
from cli.simulation import Question, answer
from cli.simulation_report import document, sentences, table
from cli.stage_costs import StageCosts
from models.bundle import MODEL, Bundle, write_bundle
from models.errors import InvalidInput
from service.simulated_load import Load
from service.simulator import Bounds
from tests.manifests import full_manifest
from tests.tiny_models import residual_mlp

OFFRAMP = Path(sys.executable).parent / "offramp"
COSTS = StageCosts(
    machine="one big GPU",
    source="https://example.org/table",
    assumed="equal layers",
    dispatch_milliseconds=0,
    batch_rows=(1, 8),
    stage_milliseconds=((3.0, 8.0), (1.5, 4.0), (2.25, 6.0)),
)
SHORT = ("--rate", 400, "--seconds", 0.5)


def question(**changed: Any) -> Question:
    asked: dict[str, Any] = {
        "name": "emotions",
        "costs": COSTS,
        "load": Load(1500, (0.6, 0.1, 0.3), (1, 4)),
        "exits": (1, 2, 3),
        "mode": "rebatch",
        "devices": None,
        "slo": 25.0,
        "bounds": Bounds(),
        "seconds": 1.0,
        "seed": 0,
        **changed,
    }
    return Question(**asked)


def no_bar(mode: str, devices: int, rows: int) -> Callable[[int], None]:
    return lambda done: None


def shown(asked: Question) -> str:
    sides = answer(asked, no_bar)
    console = Console(file=StringIO(), width=100)
    console.print(table(asked, sides))
    for sentence in sentences(asked, sides):
        console.print(sentence, markup=False, soft_wrap=True)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    return str(text)


def offramp(*arguments: object) -> str:
    result = CliRunner().invoke(app, ["simulate", *map(str, arguments)])
    assert result.exit_code == 0, result.output
    return result.stdout


def refusal(*arguments: object) -> InvalidInput:
    result = CliRunner().invoke(app, ["simulate", *map(str, arguments)])
    assert isinstance(result.exception, InvalidInput), result.output
    return result.exception


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle with every fact that a simulation asks for; its model is another's."""
    files = {MODEL: residual_mlp(1).SerializeToString()}
    return write_bundle(tmp_path_factory.mktemp("recorded") / "emotions", full_manifest(), files)


@pytest.fixture
def costs_file(tmp_path: Path) -> Path:
    path = tmp_path / "gpu.json"
    path.write_text(COSTS.model_dump_json())
    return path


def test_both_modes_meet_the_same_requests() -> None:
    rebatch, monolith = answer(question(devices=4), no_bar)
    assert rebatch.outcome is not None
    assert monolith.outcome is not None
    assert rebatch.exits == (1, 2, 3)
    assert monolith.exits == (3,)
    here, there = rebatch.outcome.arrivals, monolith.outcome.arrivals
    assert here.times.tolist() == there.times.tolist()
    assert here.sizes.tolist() == there.sizes.tolist()
    assert monolith.outcome.exits.tolist() == [1] * there.rows
    assert rebatch.offered < monolith.offered


def test_exits_save_devices() -> None:
    asked = question()
    rebatch, monolith = answer(asked, no_bar)
    assert rebatch.outcome is not None
    assert monolith.outcome is not None
    assert rebatch.met
    assert monolith.met
    few, many = rebatch.outcome.lanes, monolith.outcome.lanes
    assert few < many
    text = shown(asked)
    assert f"rebatch needs {few} devices for a p99 of 25 ms" in text
    assert f"Exits save {many - few} of {many} devices." in text
    for word in ("emotions: 1,500 rows/s, 1 to 4 per request", "requests", "exit 3", "one big GPU"):
        assert word in text
    assert "https://example.org/table" in text
    assert "Assumed: equal layers." in text


def test_an_objective_that_is_missed_says_why() -> None:
    text = shown(question(devices=1, bounds=Bounds(max_queue_rows=100)))
    assert "monolith does not give a p99 of 25 ms with 1 device" in text
    assert "of the rows refused" in text
    late = shown(question(devices=1, bounds=Bounds(deadline=15.0)))
    assert "of the rows too late for any answer" in late


def test_an_objective_below_what_a_row_takes_needs_no_search() -> None:
    text = shown(question(slo=1.0))
    assert "No number of devices gives rebatch a p99 of 1 ms" in text
    assert "takes 6.75 ms or more" in text
    found = document(question(slo=1.0), answer(question(slo=1.0), no_bar))
    assert [side["devices"] for side in found["modes"]] == [None, None]
    assert [side["met"] for side in found["modes"]] == [False, False]


def test_the_document_is_json_whatever_happens() -> None:
    for asked in (question(), question(devices=2, slo=float("inf"))):
        sides = answer(asked, no_bar)
        found = json.loads(json.dumps(document(asked, sides), allow_nan=False))
        rebatch = found["modes"][0]
        assert rebatch["rows"]["p50_ms"] <= rebatch["rows"]["p99_ms"]
        assert [exit_["exit"] for exit_ in rebatch["exits"]] == [1, 2, 3]
        assert sum(exit_["leaving"] for exit_ in rebatch["exits"]) == pytest.approx(1)
        assert ("met" in rebatch) == (asked.slo < float("inf"))


def test_monolith_stands_alone() -> None:
    sides = answer(question(mode="monolith", devices=2), no_bar)
    assert [side.mode for side in sides] == ["monolith"]


def test_a_bundle_brings_its_costs_and_its_mix(recorded: Bundle) -> None:
    found = json.loads(offramp(recorded.path, *SHORT, "--devices", 1, "--json"))
    manifest = recorded.manifest
    assert found["exit_mix"] == [exit_.share_leaving for exit_ in manifest.test.exits]
    assert found["costs"]["machine"] == manifest.costs.machine
    assert [side["mode"] for side in found["modes"]] == ["rebatch", "monolith"]
    again = json.loads(offramp(recorded.path, *SHORT, "--devices", 1, "--json"))
    assert again == found


def test_without_a_bundle_costs_and_mix_are_enough(costs_file: Path) -> None:
    mix = ("--exit-mix", ".5,.25,.25")
    text = offramp("--costs", costs_file, *mix, *SHORT, "--slo", 30, "--mode", "compact")
    assert "gpu: 400 rows/s" in text
    assert "compact needs" in text
    assert "no bundle" in str(refusal("--costs", costs_file, *SHORT, "--slo", 30))
    assert "no bundle" in str(refusal(*mix, *SHORT, "--slo", 30))


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--rate", 0, "--slo", 5), "rate: found 0"),
        (("--rate", -3, "--slo", 5), "rate: found -3"),
        (SHORT, "neither --devices nor --slo"),
        ((*SHORT, "--slo", 0), "slo: found 0"),
        ((*SHORT, "--devices", 0), "devices: found 0"),
        ((*SHORT, "--slo", 5, "--exit-mix", "1"), "found 1 shares, expected"),
        ((*SHORT, "--slo", 5, "--exit-mix", "half"), "exit mix: found 'half'"),
        ((*SHORT, "--slo", 5, "--rows-per-request", "1.5"), "rows per request: found '1.5'"),
        ((*SHORT, "--slo", 5, "--rows-per-request", "0"), "rows per request: found 0"),
        ((*SHORT, "--slo", 5, "--deadline-ms", 0), "deadline: found 0"),
        (("--rate", 1e9, "--slo", 5), "take a shorter span"),
        (("--rate", 5, "--slo", 5, "--seconds", 0), "seconds: found 0"),
    ],
)
def test_mistakes_are_named(recorded: Bundle, arguments: tuple[object, ...], named: str) -> None:
    assert named in str(refusal(recorded.path, *arguments))


def test_costs_of_another_model_are_refused(recorded: Bundle, tmp_path: Path) -> None:
    stages = recorded.manifest.depth + 1
    path = tmp_path / "other.json"
    other = COSTS.model_copy(update={"stage_milliseconds": ((1.0, 2.0),) * stages})
    path.write_text(other.model_dump_json())
    message = str(refusal(recorded.path, *SHORT, "--slo", 5, "--costs", path))
    assert f"found {stages} stages" in message
    assert f"expected {recorded.manifest.depth}" in message


def test_a_mistake_ends_with_status_2_and_one_paragraph(tmp_path: Path) -> None:
    result = subprocess.run(
        [OFFRAMP, "simulate", tmp_path, "--rate", "1", "--slo", "1"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 2
    assert result.stderr.startswith("error: ")
    assert "Traceback" not in result.stderr
