from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from models.bundle import MODEL, Bundle, write_bundle
from models.errors import BundleError
from models.manifest import Manifest
from service.store import check_model, load_bundle
from tests.conftest import ROOT


def test_a_directory_is_read(bundle: Bundle) -> None:
    assert load_bundle(str(bundle.path)) == bundle


def test_what_is_neither_directory_nor_tag_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path))
    with pytest.raises(BundleError, match="'no:where' is neither a directory nor a tag"):
        load_bundle("no:where")


def test_a_pushed_bundle_is_found_by_its_tag(tmp_path: Path, bundle: Bundle) -> None:
    environment = {**os.environ, "BENTOML_HOME": str(tmp_path), "BENTOML_DO_NOT_TRACK": "True"}

    def run(*command: object) -> str:
        return subprocess.run(
            [*map(str, command)],
            capture_output=True,
            text=True,
            env=environment,
            cwd=ROOT,
            check=True,
        ).stdout.strip()

    tag = run(Path(sys.executable).parent / "offramp", "push", bundle.path).splitlines()[-1]
    assert tag.startswith("offramp-digits:")
    code = f"from service.store import load_bundle; print(load_bundle({tag!r}).manifest.digest)"
    assert run(sys.executable, "-c", code) == bundle.manifest.digest


def with_wrong_carry(manifest: dict) -> None:
    manifest["exits"][1]["carry"] = ["exit1_logits"]


def with_too_few_labels(manifest: dict) -> None:
    manifest["labels"] = manifest["labels"][:3]


def with_another_input(manifest: dict) -> None:
    manifest["inputs"][0]["name"] = "picture"


def with_another_shape(manifest: dict) -> None:
    manifest["inputs"][0]["row_shape"] = [3, 32, 32]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (with_wrong_carry, "its cut does not carry"),
        (with_too_few_labels, "gives 10 probabilities, expected 3"),
        (with_another_input, r"inputs are \['image'\], expected \['picture'\]"),
        (with_another_shape, "image"),
    ],
)
def test_a_model_that_does_not_fit_its_manifest_is_refused(
    tmp_path: Path, bundle: Bundle, change: Callable[[dict], None], words: str
) -> None:
    content = bundle.manifest.model_dump(mode="json")
    change(content)
    forged = write_bundle(
        tmp_path / "forged", Manifest.model_validate(content), {MODEL: bundle.model}
    )
    with pytest.raises(BundleError, match=rf"{MODEL} does not fit its manifest.*{words}"):
        check_model(forged)
