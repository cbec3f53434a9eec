from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cli.stage_costs import StageCosts, read_costs, recorded_costs
from models.errors import InvalidInput
from service.warmup import DISPATCH_MS
from tests.manifests import full_manifest

GOOD: dict[str, Any] = {
    "machine": "one big GPU",
    "batch_rows": [1, 8],
    "stage_milliseconds": [[1.0, 2.0], [1.5, 3.0]],
}


def written(folder: Path, **changed: Any) -> Path:
    path = folder / "costs.json"
    path.write_text(json.dumps({**GOOD, **changed}))
    return path


def test_without_a_whole_model_its_time_is_the_sum_of_the_stages(tmp_path: Path) -> None:
    summed = read_costs(written(tmp_path, dispatch_milliseconds=0)).of_whole()
    assert summed.stages == 1
    assert [summed.milliseconds(1, (), rows) for rows in (1, 8)] == [2.5, 5.0]
    given = {"dispatch_milliseconds": 0, "whole_milliseconds": [2.0, 4.0]}
    whole = read_costs(written(tmp_path, **given)).of_whole()
    assert [whole.milliseconds(1, (), rows) for rows in (1, 8)] == [2.0, 4.0]


def test_dispatching_is_added_to_every_stage(tmp_path: Path) -> None:
    costs = read_costs(written(tmp_path, dispatch_milliseconds=0.25))
    stages = costs.of_stages()
    assert [stages.milliseconds(k, (), 8) for k in (1, 2)] == [2.25, 3.25]
    assert costs.of_whole().milliseconds(1, (), 8) == 5.25
    assert read_costs(written(tmp_path)).dispatch_milliseconds == DISPATCH_MS


def test_a_bundle_records_the_same_fields() -> None:
    costs = full_manifest().costs
    recorded = recorded_costs(costs)
    assert recorded == StageCosts.model_validate_json(recorded.model_dump_json())
    whole = recorded.of_whole().milliseconds(1, (), 32)
    assert whole == costs.whole_milliseconds[-1] + DISPATCH_MS
    assert np.shape(recorded.stage_milliseconds) == (recorded.stages, len(recorded.batch_rows))


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"batch_rows": [2, 8]}, "expected 1 and then more"),
        ({"batch_rows": [1, 1]}, "expected 1 and then more"),
        ({"batch_rows": []}, "batch_rows"),
        ({"stage_milliseconds": []}, "stage_milliseconds"),
        ({"stage_milliseconds": [[1.0, 2.0], [1.0]]}, "stage 2 has 1 times, expected 2"),
        ({"stage_milliseconds": [[1.0, 0.0]]}, "stage_milliseconds.0.1"),
        ({"whole_milliseconds": [1.0]}, "whole_milliseconds has 1 times, expected 2"),
        ({"stages": 4}, "stages"),
        ({"dispatch_milliseconds": -1}, "dispatch_milliseconds"),
        ({"machine": None}, "machine"),
    ],
)
def test_another_content_is_refused_by_name(
    tmp_path: Path, changed: dict[str, Any], named: str
) -> None:
    with pytest.raises(InvalidInput, match=rf"costs\.json.*{named}"):
        read_costs(written(tmp_path, **changed))


def test_what_is_no_json_or_not_there_is_refused(tmp_path: Path) -> None:
    broken = tmp_path / "broken.json"
    broken.write_bytes(b"\xff{")
    with pytest.raises(InvalidInput, match=r"broken\.json"):
        read_costs(broken)
    with pytest.raises(InvalidInput, match="cannot read"):
        read_costs(tmp_path / "missing.json")
    with pytest.raises(InvalidInput, match="cannot read"):
        read_costs(tmp_path)
