"""The bundle: one directory, written whole or not at all, and verified before it is used."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import ValidationError

from models.errors import BundleError
from models.manifest import Manifest

MANIFEST = "manifest.json"
MODEL = "model.onnx"


@dataclass(frozen=True)
class Bundle:
    """A verified bundle.

    path : where it was read from
    manifest : its facts
    model : the bytes of `model.onnx` that the hash was computed over
    """

    path: Path
    manifest: Manifest
    model: bytes


def check_target(path: Path, force: bool) -> None:
    """Refuse to write a bundle to `path` before any long work begins.

    Raises
    ------
    BundleError
        When something is there already and `force` is not given, or is there and is not a bundle.
    """
    if not path.exists() and not path.is_symlink():
        return
    if not (path / MANIFEST).is_file() or path.is_symlink():
        raise BundleError(
            f"{path} exists and is not a bundle (a directory with {MANIFEST}): it will not be "
            f"replaced, "
            "not even with --force; choose another --out"
        )
    if not force:
        raise BundleError(
            f"{path} already holds a bundle: choose another --out, or replace it with --force"
        )


def write_bundle(
    path: Path, manifest: Manifest, files: Mapping[str, bytes], force: bool = False
) -> Bundle:
    """Write a bundle through a temporary directory beside it and a rename.

    Parameters
    ----------
    path : the new directory
    manifest : without hashes; they are filled in
    files : plain file names and contents; `model.onnx` must be among them
    force : replace a bundle that is there
    """
    check_target(path, force)
    sealed = manifest.sealed({name: _sha256(content) for name, content in files.items()})
    path.parent.mkdir(parents=True, exist_ok=True)
    workspace = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        fresh = workspace / "fresh"
        fresh.mkdir()
        for name, content in {**files, MANIFEST: _json(sealed)}.items():
            _write_durably(fresh / name, content)
        written = read_bundle(fresh)
        _swap(fresh, path, workspace / "replaced")
    finally:
        shutil.rmtree(workspace, ignore_errors=True)
    return replace(written, path=path)


def read_bundle(path: Path) -> Bundle:
    """Read a bundle and verify schema, hashes and paths.

    Raises
    ------
    BundleError
        Names the file and what is wrong with it.
    """
    if not path.is_dir():
        raise BundleError(
            f"no bundle at {path}: expected a directory with {MANIFEST} (see `offramp demo`)"
        )
    manifest = _read_manifest(path)
    contents = {name: _read_file(path, name) for name in manifest.files}
    for name, expected in manifest.files.items():
        found = _sha256(contents[name])
        if found != expected:
            raise BundleError(
                f"{path / name} was altered or truncated: its sha256 is {found[:12]}…, "
                f"{MANIFEST} says "
                f"{expected[:12]}… ({len(contents[name])} bytes found); restore the bundle or "
                f"calibrate again"
            )
    if MODEL not in contents:
        raise BundleError(
            f"{path / MANIFEST} lists no {MODEL}: the bundle is incomplete; calibrate again"
        )
    _check_self_contained(path / MODEL, contents[MODEL])
    return Bundle(path, manifest, contents[MODEL])


def _read_manifest(path: Path) -> Manifest:
    content = _read_file(path, MANIFEST)
    try:
        manifest = Manifest.model_validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"]) or "document"
        raise BundleError(
            f"{path / MANIFEST} does not follow the schema: {field}: "
            f"{first['msg']}; "
            "restore the bundle or calibrate again with this version"
        ) from error
    if manifest.digest != manifest.content_digest():
        raise BundleError(
            f"{path / MANIFEST} was altered: its content does not match its digest; "
            "thresholds and certificate cannot be trusted, restore the bundle or calibrate again"
        )
    return manifest


def _read_file(path: Path, name: str) -> bytes:
    """Read a file that must lie in the bundle itself: no folders, no links."""
    if not name or name in {".", ".."} or Path(name).name != name:
        raise BundleError(
            f"{path / MANIFEST} names the file {name!r}: only plain names inside the bundle"
        )
    try:
        mode = (path / name).lstat().st_mode
        if not stat.S_ISREG(mode):
            raise BundleError(
                f"{path / name} is a link or not a plain file: a bundle holds plain files only"
            )
        return (path / name).read_bytes()
    except OSError as error:
        raise BundleError(
            f"{path / name} cannot be read ({error.strerror}); restore the bundle or calibrate "
            f"again"
        ) from error


def _check_self_contained(path: Path, content: bytes) -> None:
    import onnx
    from google.protobuf.message import DecodeError
    from onnx.external_data_helper import uses_external_data

    try:
        model = onnx.load_model_from_string(content)
    except DecodeError as error:
        raise BundleError(f"{path} is not an ONNX model: {error}") from error
    attributes = (a for node in model.graph.node for a in node.attribute if a.HasField("t"))
    for tensor in [*model.graph.initializer, *(attribute.t for attribute in attributes)]:
        if uses_external_data(tensor):
            raise BundleError(
                f"{path} keeps tensor {tensor.name!r} in an external file: a bundle's weights "
                f"lie in {MODEL}"
            )


def _swap(fresh: Path, path: Path, replaced: Path) -> None:
    """Put `fresh` in the place of `path`; on failure what was there comes back."""
    if not path.exists():
        fresh.rename(path)
        return
    path.rename(replaced)
    try:
        fresh.rename(path)
    except BaseException:
        replaced.rename(path)
        raise


def _write_durably(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _json(manifest: Manifest) -> bytes:
    return (manifest.model_dump_json(indent=2) + "\n").encode()


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
