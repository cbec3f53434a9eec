from __future__ import annotations

import json
import runpy

import pytest

from cli.stage_costs import read_costs
from tests.conftest import ROOT

FOLDER = ROOT / "examples" / "planning"


def test_the_costs_file_is_what_its_script_makes_of_the_published_table() -> None:
    script = runpy.run_path(str(FOLDER / "make.py"))
    costs = read_costs(FOLDER / "bert_base_a100.json")
    assert dict(zip(costs.batch_rows, costs.whole_milliseconds, strict=True)) == script["LATENCY"]
    for whole, *stages in zip(costs.whole_milliseconds, *costs.stage_milliseconds, strict=True):
        assert sum(stages) == pytest.approx(whole, abs=1e-4)
    assert costs.source.startswith("https://")
    assert costs.assumed
    written = json.loads((FOLDER / "bert_base_a100.json").read_text())
    assert written["source"] == script["SOURCE"]
