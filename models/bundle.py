"""The bundle: one directory, written whole or not at all, and verified before it is used."""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from models.errors import BundleError
from models.manifest import Manifest, content_digest

if TYPE_CHECKING:
    import onnx
    from google.protobuf.message import Message

MANIFEST = "manifest.json"
MODEL = "model.onnx"
EXAMPLES = "examples.json"
"""Rows to try the model with: `[{"row": as POST /predict takes it, "labels": [name, …]}, …]`."""
REFERENCE = "reference.json"
"""See `models.live_reference`; without it the service does not watch its answers."""

AT_FDCWD = -100
RENAME_EXCHANGE = 2


@dataclass(frozen=True)
class Bundle:
    """A verified bundle.

    path : where it was read from
    manifest : its facts
    files : the bytes of every file that the hashes were computed over, by name
    """

    path: Path
    manifest: Manifest
    files: Mapping[str, bytes]

    @property
    def model(self) -> bytes:
        """The serialized multi-head graph."""
        return self.files[MODEL]


def check_target(path: Path, force: bool) -> None:
    """Refuse to write a bundle to `path` before any long work begins.

    Raises
    ------
    BundleError
        When something is there already and `force` is not given, when what is there is not a
        bundle, or when nothing can be written there.
    """
    _workspace(path).rmdir()
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
    workspace = _workspace(path)
    try:
        fresh = workspace / "fresh"
        fresh.mkdir()
        for name, content in {**files, MANIFEST: _json(sealed)}.items():
            _write_durably(fresh / name, content)
        written = read_bundle(fresh)
        _put_in_place(fresh, path)
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
    return Bundle(path, manifest, contents)


def _workspace(path: Path) -> Path:
    """A fresh directory beside `path`, on the same file system."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    except OSError as error:
        raise BundleError(
            f"nothing can be written beside {path} ({error.strerror}: {error.filename}); "
            "choose another --out"
        ) from error


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
    if manifest.digest != content_digest(json.loads(content)):
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
    for tensor in _tensors(model):
        if uses_external_data(tensor):
            raise BundleError(
                f"{path} keeps tensor {tensor.name!r} in an external file: a bundle's weights lie "
                f"in {MODEL}"
            )


def _tensors(message: Message) -> Iterator[onnx.TensorProto]:
    """Every tensor anywhere in a model: in attributes, inner graphs and functions too."""
    import onnx

    if isinstance(message, onnx.TensorProto):
        yield message
        return
    for field, value in message.ListFields():
        if field.message_type is not None:
            for part in value if field.is_repeated else [value]:
                yield from _tensors(part)


def _put_in_place(fresh: Path, path: Path) -> None:
    """Rename `fresh` to `path`; a bundle that is there is whole at every moment."""
    if not path.exists():
        fresh.rename(path)
        return
    if _exchange(fresh, path):
        return
    # no exchange on this file system: a kill between the renames leaves the old bundle beside
    aside = path.with_name(f".{path.name}-replaced")
    try:
        path.rename(aside)
        fresh.rename(path)
    except BaseException:
        if aside.exists() and not path.exists():
            aside.rename(path)
        raise
    shutil.rmtree(aside)


def _exchange(one: Path, other: Path) -> bool:
    """Let two directories change places in one step (rename(2) of Linux); whether it was done."""
    renameat2 = getattr(ctypes.CDLL(None), "renameat2", None)
    arguments = (AT_FDCWD, bytes(one), AT_FDCWD, bytes(other), RENAME_EXCHANGE)
    return renameat2 is not None and renameat2(*arguments) == 0


def _write_durably(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _json(manifest: Manifest) -> bytes:
    return (manifest.model_dump_json(indent=2) + "\n").encode()


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
