from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from models.bundle import MANIFEST, MODEL, Bundle, write_bundle
from models.errors import BundleError, SettingsError
from models.manifest import Manifest
from service.store import check_bundles, check_model, digest_of, files_of, load_bundle
from tests.conftest import ROOT
from tests.small_bundles import small_bundle


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


def test_bundles_of_several_models_are_good_together(tmp_path: Path) -> None:
    check_bundles([str(small_bundle(tmp_path / kind, kind).path) for kind in ("numbers", "image")])


def test_two_bundles_of_one_model_are_refused(tmp_path: Path) -> None:
    one, other = (str(small_bundle(tmp_path / str(seed), "numbers", seed).path) for seed in (0, 1))
    words = f"two bundles of the model 'small-numbers': found '{one}' and '{other}'"
    with pytest.raises(SettingsError, match=words):
        check_bundles([one, other])
    with pytest.raises(SettingsError, match="another --name"):
        check_bundles([one, one])


@pytest.mark.parametrize("names", [["a", ""], ["", "a"], ["a", "", "b"], [""]])
def test_an_empty_name_is_no_bundle(names: list[str]) -> None:
    with pytest.raises(SettingsError, match=r"OFFRAMP_BUNDLE is .*: found an empty name"):
        check_bundles(names)


def test_a_bad_bundle_among_good_ones_is_named(tmp_path: Path) -> None:
    good = str(small_bundle(tmp_path / "good", "numbers").path)
    bad = small_bundle(tmp_path / "bad", "image").path
    (bad / MODEL).write_bytes(b"not a model")
    with pytest.raises(BundleError, match=str(bad)):
        check_bundles([good, str(bad)])


def rewritten(path: Path) -> None:
    path.write_bytes(path.read_bytes())


def touched_back(path: Path) -> None:
    """As `cp -p` and `rsync -t` leave it."""
    look = path.stat()
    rewritten(path)
    os.utime(path, ns=(look.st_atime_ns, look.st_mtime_ns))


def cut(path: Path) -> None:
    os.truncate(path, 1)


@pytest.mark.parametrize("change", [rewritten, touched_back, cut, os.remove])
@pytest.mark.parametrize("file", [MODEL, MANIFEST])
def test_a_changed_file_is_seen(tmp_path: Path, change: Callable[[Path], None], file: str) -> None:
    path = small_bundle(tmp_path / "bundle", "numbers").path
    before = files_of(str(path))
    assert files_of(str(path)) == before
    change(path / file)
    assert files_of(str(path)) != before


def test_a_link_is_followed_to_where_it_leads_now(tmp_path: Path) -> None:
    one, other = (small_bundle(tmp_path / str(seed), "numbers", seed) for seed in (0, 1))
    link, fresh = tmp_path / "link", tmp_path / "fresh"
    link.symlink_to(one.path)
    before = files_of(str(link))
    assert digest_of(str(link)) == one.manifest.digest
    fresh.symlink_to(other.path)
    fresh.replace(link)
    assert files_of(str(link)) != before
    assert digest_of(str(link)) == other.manifest.digest


def test_a_tag_is_followed_to_the_version_that_it_means_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = tmp_path / "models" / "some"
    one, other = (small_bundle(stored / str(seed), "numbers", seed) for seed in (0, 1))

    def get(tag: str) -> SimpleNamespace:
        return SimpleNamespace(path=stored / (stored / "latest").read_text())

    monkeypatch.setattr("bentoml.models.get", get)
    (stored / "latest").write_text("0")
    before = files_of("some:latest")
    assert digest_of("some:latest") == one.manifest.digest
    (stored / "latest").write_text("1")
    assert files_of("some:latest") != before
    assert digest_of("some:latest") == other.manifest.digest


@pytest.mark.parametrize("spoil", [shutil.rmtree, lambda path: cut(path / MANIFEST)])
def test_a_bundle_that_is_half_there_has_no_digest(
    tmp_path: Path, spoil: Callable[[Path], None]
) -> None:
    path = small_bundle(tmp_path / "bundle", "numbers").path
    spoil(path)
    assert digest_of(str(path)) == ""
    assert isinstance(files_of(str(path)), tuple)
