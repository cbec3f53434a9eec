from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from models.bundle import MANIFEST, Bundle
from models.runtime import StageRuntime

OFFRAMP = Path(sys.executable).parent / "offramp"


def offramp(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [OFFRAMP, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "COLUMNS": "200", **environment},
    )


def test_demo_refuses_an_existing_bundle_at_once(bundle: Bundle) -> None:
    before = (bundle.path / MANIFEST).read_bytes()
    result = offramp("demo", "--out", bundle.path)
    assert result.returncode == 2
    assert "--force" in result.stderr
    assert "Traceback" not in result.stderr
    assert (bundle.path / MANIFEST).read_bytes() == before


def test_demo_never_forces_away_what_is_not_a_bundle(tmp_path: Path) -> None:
    result = offramp("demo", "--out", tmp_path, "--force")
    assert result.returncode == 2
    assert "not a bundle" in result.stderr


@pytest.mark.parametrize("option", ["--epsilon", "--delta"])
def test_levels_are_checked_before_any_work(tmp_path: Path, option: str) -> None:
    result = offramp("demo", "--out", tmp_path / "new", option, "1.5")
    assert result.returncode == 2
    assert f"{option[2:]} is 1.5" in result.stderr
    assert not (tmp_path / "new").exists()


def test_push_of_no_bundle_is_refused(tmp_path: Path) -> None:
    result = offramp("push", tmp_path, BENTOML_HOME=str(tmp_path))
    assert result.returncode == 2
    assert MANIFEST in result.stderr


def test_a_negative_seed_is_refused(tmp_path: Path) -> None:
    result = offramp("demo", "--out", tmp_path / "new", "--seed", "-1")
    assert result.returncode == 2
    assert "Traceback" not in result.stderr


def test_inspect_shows_all_that_a_bundle_says(bundle: Bundle) -> None:
    result = offramp("inspect", bundle.path)
    assert result.returncode == 0
    manifest = bundle.manifest
    for shown in (
        "image float32 (rows, 1, 32, 32)",
        "carry1",
        manifest.certificate.sentence[:40],
        "Learn-then-Test",
        "candidate layers on the tune split",
        "model.onnx",
        manifest.files["model.onnx"][:16],
    ):
        assert shown in result.stdout, shown
    as_json = offramp("inspect", bundle.path, "--json")
    assert json.loads(as_json.stdout)["digest"] == manifest.digest


def test_exported_stages_chained_by_their_policy_answer_as_the_bundle(
    bundle: Bundle, runtime: StageRuntime, rows: np.ndarray, tmp_path: Path
) -> None:
    """Another server needs nothing but the files: no code of ours follows the policy here."""
    result = offramp("export", bundle.path, "--stages", tmp_path / "stages")
    assert result.returncode == 0
    chain = json.loads((tmp_path / "stages" / "policy.json").read_text())
    row, expected = rows[:1], runtime.all_exits((rows[:1],))
    feeds = {chain["inputs"][0]["name"]: row}
    for number, stage in enumerate(chain["stages"], start=1):
        session = onnxruntime.InferenceSession(
            tmp_path / "stages" / stage["file"], providers=["CPUExecutionProvider"]
        )
        names = [value.name for value in session.get_outputs()]
        outputs = dict(zip(names, session.run(names, feeds), strict=True))
        found = outputs[f"exit{number}_probabilities"]
        np.testing.assert_allclose(found, expected[number - 1].probabilities, atol=1e-5)
        feeds = {name: outputs[name] for name in stage["carry"]}
    assert number == bundle.manifest.depth
    again = offramp("export", bundle.path, "--stages", tmp_path / "stages")
    assert again.returncode == 2
    assert "already holds stages" in again.stderr


def test_a_model_in_no_known_form_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_text(
        "text,labels\n" + "".join(f"a {k},{'xy'[k % 2]}\n" for k in range(2000))
    )
    out = tmp_path / "bundles" / "new"
    result = offramp(
        "calibrate", "--model", "nothing", "--data", tmp_path / "data.csv", "--out", out
    )
    assert result.returncode == 2
    assert "an ONNX file" in result.stderr
    assert "Traceback" not in result.stderr
    assert list(out.parent.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("text,labels\n", "no rows"),
        ("text,labels\na,x\nb,y\n", "fit"),
    ],
    ids=["empty", "too few"],
)
def test_data_that_cannot_be_used_is_refused_before_the_model_is_opened(
    tmp_path: Path, content: str, words: str
) -> None:
    (tmp_path / "data.csv").write_text(content)
    result = offramp(
        "calibrate",
        "--model",
        "nothing",
        "--data",
        tmp_path / "data.csv",
        "--out",
        tmp_path / "new",
    )
    assert result.returncode == 2
    assert words in result.stderr
    assert "Traceback" not in result.stderr


def test_contradicting_columns_are_refused(tmp_path: Path) -> None:
    result = offramp(
        "calibrate",
        *("--model", "m.onnx", "--data", tmp_path, "--out", tmp_path / "new"),
        *("--text-column", "a", "--image-column", "b"),
    )
    assert result.returncode == 2
    assert "not both" in result.stderr
