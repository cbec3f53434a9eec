"""Finds the bundle that `OFFRAMP_BUNDLE` names: a directory, or a tag in the model store."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from models.bundle import MANIFEST, MODEL, Bundle, read_bundle
from models.encoding import blank_rows
from models.errors import BundleError, GraphError, SettingsError
from models.runtime import StageRuntime

Files = tuple[tuple[str, int, int, int], ...]
"""Name, inode, bytes and time of the last change of every file, by name."""


def load_bundle(name: str) -> Bundle:
    """Read and verify the bundle.

    Parameters
    ----------
    name : a directory, or `name[:version]` of a stored model

    Raises
    ------
    BundleError
        When neither is there, or the bundle fails its checks.
    """
    return read_bundle(_directory(name))


def files_of(name: str) -> Files:
    """What tells whether a bundle, or a link or tag that leads to it, may have changed."""
    try:
        with os.scandir(_directory(name)) as entries:
            looks = [(entry.name, entry.stat()) for entry in entries]
    except (BundleError, OSError):  # it is being replaced
        return ()
    return tuple(sorted((n, look.st_ino, look.st_size, look.st_ctime_ns) for n, look in looks))


def digest_of(name: str) -> str:
    """What a bundle's manifest says that its digest is; empty where that cannot be read."""
    try:
        return str(json.loads((_directory(name) / MANIFEST).read_bytes())["digest"])
    except (BundleError, OSError, ValueError, KeyError, TypeError):
        return ""


def check_bundles(names: Sequence[str]) -> None:
    """Read, verify and try all bundles of one server.

    Raises
    ------
    SettingsError
        When a name is empty, or two bundles are of one model.
    BundleError
        See `load_bundle` and `check_model`.
    """
    if not all(names):
        raise SettingsError(
            f"OFFRAMP_BUNDLE is {','.join(names)!r}: found an empty name, expected bundles with "
            "one comma between them"
        )
    models: dict[str, str] = {}
    for name in names:
        bundle = load_bundle(name)
        model = bundle.manifest.name
        if model in models:
            raise SettingsError(
                f"OFFRAMP_BUNDLE names two bundles of the model {model!r}: found {models[model]!r} "
                f"and {name!r}, expected one of each model; calibrate one of them with another "
                "--name, or serve it by another server"
            )
        check_model(bundle)
        models[model] = name


def _directory(name: str) -> Path:
    directory = Path(name)
    return directory if directory.is_dir() else _stored(name)


def _stored(tag: str) -> Path:
    import bentoml
    from bentoml.exceptions import BentoMLException

    try:
        return Path(bentoml.models.get(tag).path)
    except (BentoMLException, ValueError) as error:
        raise BundleError(
            f"OFFRAMP_BUNDLE names no bundle: {tag!r} is neither a directory nor a tag in the "
            f"BentoML model store; "
            "make one with `offramp demo --out bundles/digits`"
        ) from error


def check_model(bundle: Bundle) -> None:
    """Split the bundle's model into stages and run one row through all of them.

    Raises
    ------
    BundleError
        When the model cannot be loaded, cut or run as the manifest says.
    """
    manifest = bundle.manifest
    carry = blank_rows(manifest.inputs)
    try:
        runtime = StageRuntime(bundle.model, manifest.carries)
        expected = [spec.name for spec in manifest.inputs]
        if runtime.input_names != expected:
            raise GraphError(f"its inputs are {runtime.input_names}, expected {expected}")
        for stage in range(1, runtime.depth + 1):
            answers, carry = runtime.run(stage, carry)
            if answers.probabilities.shape != (1, len(manifest.labels)):
                raise GraphError(
                    f"exit {stage} gives {answers.probabilities.shape[-1]} probabilities, expected "
                    f"{len(manifest.labels)}, one per label"
                )
    except Exception as error:  # ONNX Runtime's errors have no common base
        raise BundleError(
            f"{bundle.path / MODEL} does not fit its manifest: {error}; calibrate again"
        ) from error
