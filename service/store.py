"""Finds the bundle that `OFFRAMP_BUNDLE` names: a directory, or a tag in the model store."""

from __future__ import annotations

from pathlib import Path

from models.bundle import Bundle, read_bundle
from models.errors import BundleError


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
    directory = Path(name)
    return read_bundle(directory if directory.is_dir() else _stored(name))


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
