"""Finds the bundle that `OFFRAMP_BUNDLE` names: a directory, or a tag in the model store."""

from __future__ import annotations

from pathlib import Path

from models.bundle import MODEL, Bundle, read_bundle
from models.encoding import blank_rows
from models.errors import BundleError, GraphError
from models.runtime import StageRuntime


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
