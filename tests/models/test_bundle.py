from __future__ import annotations

import contextlib
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from models.bundle import MANIFEST, MODEL, Bundle, check_target, read_bundle, write_bundle
from models.errors import BundleError
from models.manifest import content_digest
from tests.conftest import ROOT


@pytest.fixture
def copy(bundle: Bundle, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle.path, tmp_path / "copy"))


def edit_manifest(path: Path, change: Callable[[dict], None], seal: bool = False) -> None:
    content = json.loads((path / MANIFEST).read_text())
    change(content)
    if seal:
        content["digest"] = content_digest(content)
    (path / MANIFEST).write_text(json.dumps(content))


def test_what_was_written_is_read(bundle: Bundle) -> None:
    assert read_bundle(bundle.path) == bundle


@pytest.mark.parametrize("name", [MODEL, MANIFEST])
def test_missing_file_is_named(copy: Path, name: str) -> None:
    (copy / name).unlink()
    with pytest.raises(BundleError, match=name):
        read_bundle(copy)


@pytest.mark.parametrize("keep", [0, 1000, -1])
def test_truncated_model_is_refused(copy: Path, keep: int) -> None:
    content = (copy / MODEL).read_bytes()
    (copy / MODEL).write_bytes(content[:keep])
    with pytest.raises(BundleError, match=rf"{MODEL} was altered or truncated"):
        read_bundle(copy)


def test_one_flipped_bit_is_refused(copy: Path) -> None:
    content = bytearray((copy / MODEL).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / MODEL).write_bytes(content)
    with pytest.raises(BundleError, match="altered"):
        read_bundle(copy)


def test_truncated_manifest_is_refused(copy: Path) -> None:
    content = (copy / MANIFEST).read_bytes()
    (copy / MANIFEST).write_bytes(content[: len(content) // 2])
    with pytest.raises(BundleError, match=f"{MANIFEST} does not follow"):
        read_bundle(copy)


def test_a_changed_threshold_breaks_the_seal(copy: Path) -> None:
    edit_manifest(copy, lambda content: content["exits"][0].update(threshold=0.01))
    with pytest.raises(BundleError, match=f"{MANIFEST} was altered"):
        read_bundle(copy)


@pytest.mark.parametrize("version", [0, 2, 4, "3"])
def test_another_schema_version_is_refused(copy: Path, version: object) -> None:
    edit_manifest(copy, lambda content: content.update(schema_version=version))
    with pytest.raises(BundleError, match="schema_version"):
        read_bundle(copy)


@pytest.mark.parametrize("name", ["../secret", "/etc/hostname", "sub/model.onnx", "..", ""])
def test_a_path_out_of_the_bundle_is_refused(copy: Path, name: str) -> None:
    edit_manifest(copy, lambda content: content["files"].update({name: "0" * 64}), seal=True)
    with pytest.raises(BundleError, match="only plain names"):
        read_bundle(copy)


def test_a_link_is_refused(copy: Path, bundle: Bundle) -> None:
    (copy / MODEL).unlink()
    (copy / MODEL).symlink_to(bundle.path / MODEL)
    with pytest.raises(BundleError, match="link"):
        read_bundle(copy)


def test_external_weights_are_refused(bundle: Bundle, tmp_path: Path) -> None:
    model = onnx.load_model_from_string(bundle.model)
    tensor = model.graph.initializer[0]
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../weights.bin")
    with pytest.raises(BundleError, match="external file"):
        write_bundle(tmp_path / "new", bundle.manifest, {MODEL: model.SerializeToString()})
    assert list(tmp_path.iterdir()) == []


def test_external_weights_inside_a_branch_are_refused(bundle: Bundle, tmp_path: Path) -> None:
    model = onnx.load_model_from_string(bundle.model)
    branch = onnx.GraphProto(name="then")
    tensor = branch.initializer.add(name="hidden", data_type=1, dims=[1])
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="secret.bin")
    model.graph.node.add(op_type="If").attribute.add(name="then_branch", type=5).g.CopyFrom(branch)
    with pytest.raises(BundleError, match="'hidden' in an external file"):
        write_bundle(tmp_path / "new", bundle.manifest, {MODEL: model.SerializeToString()})


@pytest.mark.parametrize("target", ["file.txt/new", "file.txt"])
def test_a_place_that_cannot_be_written_is_refused_first(tmp_path: Path, target: str) -> None:
    (tmp_path / "file.txt").write_text("precious")
    with pytest.raises(BundleError, match="choose another --out"):
        check_target(tmp_path / target, force=True)


def test_the_order_and_layout_of_the_manifest_do_not_matter(copy: Path) -> None:
    content = json.loads((copy / MANIFEST).read_text())
    reordered = json.dumps(dict(reversed(content.items())), indent=None)
    (copy / MANIFEST).write_text(reordered)
    assert read_bundle(copy).manifest.digest == content["digest"]


def test_a_bundle_is_not_replaced_without_force(bundle: Bundle, copy: Path) -> None:
    before = (copy / MANIFEST).read_bytes()
    with pytest.raises(BundleError, match="--force"):
        write_bundle(copy, bundle.manifest, {MODEL: bundle.model})
    assert (copy / MANIFEST).read_bytes() == before


def test_force_replaces_the_whole_bundle(bundle: Bundle, copy: Path) -> None:
    (copy / "left-over").touch()
    write_bundle(copy, bundle.manifest, {MODEL: bundle.model}, force=True)
    assert sorted(path.name for path in copy.iterdir()) == [MANIFEST, MODEL]
    assert [path.name for path in copy.parent.iterdir()] == ["copy"]


def test_force_never_replaces_what_is_not_a_bundle(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(BundleError, match="not a bundle"):
        write_bundle(tmp_path, bundle.manifest, {MODEL: bundle.model}, force=True)
    assert (tmp_path / "thesis.tex").read_text() == "precious"


@pytest.mark.parametrize("exchange", [True, False], ids=["exchange", "two renames"])
@pytest.mark.parametrize("moment", [1, 2, 3])
def test_an_interrupt_at_any_rename_leaves_a_whole_bundle(
    bundle: Bundle, copy: Path, monkeypatch: pytest.MonkeyPatch, exchange: bool, moment: int
) -> None:
    """The interrupt comes right after a rename has been done, as a signal's may."""
    renames = []
    rename = Path.rename

    def interrupted(self: Path, target: Path) -> Path:
        renames.append(self)
        done = rename(self, target)
        if len(renames) == moment:
            raise KeyboardInterrupt
        return done

    monkeypatch.setattr(Path, "rename", interrupted)
    if not exchange:
        monkeypatch.setattr("models.bundle._exchange", lambda one, other: False)
    with contextlib.suppress(KeyboardInterrupt):
        write_bundle(copy, bundle.manifest, {MODEL: bundle.model}, force=True)
    assert bool(renames) is not exchange
    assert read_bundle(copy).manifest.exits == bundle.manifest.exits


def test_a_killed_write_leaves_the_old_bundle_whole(copy: Path) -> None:
    code = f"""
import os, signal, models.bundle as bundles
from pathlib import Path

old = bundles.read_bundle(Path({str(copy)!r}))
write = bundles._write_durably
def write_then_die(path, content):
    write(path, content[: len(content) // 2])
    os.kill(os.getpid(), signal.SIGKILL)
bundles._write_durably = write_then_die
bundles.write_bundle(old.path, old.manifest, {{bundles.MODEL: old.model}}, force=True)
"""
    before = read_bundle(copy)
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT)
    assert result.returncode == -signal.SIGKILL
    assert read_bundle(copy) == before


def test_no_directory_is_said_plainly(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no bundle at"):
        read_bundle(tmp_path / "nowhere")
