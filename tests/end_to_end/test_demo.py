from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from models.bundle import read_bundle


@pytest.mark.slow
def test_the_default_bundle_keeps_what_the_readme_says(tmp_path: Path) -> None:
    out = tmp_path / "digits"
    result = subprocess.run(
        [Path(sys.executable).parent / "offramp", "demo", "--out", out, "--json"],
        capture_output=True,
        text=True,
        check=True,
    )
    manifest = read_bundle(out).manifest
    assert json.loads(result.stdout)["digest"] == manifest.digest
    assert manifest.certificate.certified
    assert (manifest.certificate.promises[0].epsilon, manifest.certificate.delta) == (0.02, 0.05)
    policy = manifest.test.policy
    assert policy.micro_f1.policy >= policy.micro_f1.full_depth - 0.01
    assert policy.computed_time <= 0.65
    assert sum(profile.share_leaving > 0 for profile in manifest.test.exits) > 1
