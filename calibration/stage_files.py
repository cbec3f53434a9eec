"""The stages of a bundle as files, for servers that are not ours."""

from __future__ import annotations

import json
from pathlib import Path

from models.bundle import Bundle
from models.errors import BundleError
from models.graph import split_stages


def write_stages(bundle: Bundle, folder: Path) -> list[Path]:
    """Write `stage{k}.onnx` for every stage, and `policy.json`, which says how to chain them.

    Raises
    ------
    BundleError
        When the folder already holds stages, or cannot be written.
    """
    import onnx

    manifest = bundle.manifest
    if any(folder.glob("stage*.onnx")):
        raise BundleError(f"{folder} already holds stages: choose another folder")
    model = onnx.load_model_from_string(bundle.model)
    written = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for number, stage in enumerate(split_stages(model, manifest.carries), start=1):
            path = folder / f"stage{number}.onnx"
            path.write_bytes(stage.SerializeToString())
            written.append(path)
        policy = folder / "policy.json"
        policy.write_text(json.dumps(_chain(bundle), indent=2) + "\n")
    except OSError as error:
        raise BundleError(f"{folder} cannot be written ({error.strerror})") from error
    return [*written, policy]


def _chain(bundle: Bundle) -> dict[str, object]:
    manifest = bundle.manifest
    return {
        "rule": "run stage 1 on the inputs; a row leaves at stage k when exit{k}_score >= its "
        "threshold (null: nobody leaves), else its carry goes into stage k + 1; all leave at the "
        "last",
        "labels": manifest.labels,
        "inputs": [spec.model_dump(mode="json") for spec in manifest.inputs],
        "stages": [
            {"file": f"stage{e.number}.onnx", "carry": e.carry, "threshold": e.threshold}
            for e in manifest.exits
        ],
        "digest": manifest.digest,
    }
