"""Bundles that were altered: refused with the file's name, at the start and while serving."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import httpx
from checked_rows import CheckedRows
from faults_site import Finding, Plan, Site
from reliability_server import start_service

from models.bundle import MANIFEST, MODEL, Bundle
from models.manifest import content_digest

REFUSED_SECONDS = 60.0
BUNDLE = "served"
"""In a fault's folder: the bundle that its server reads."""


@dataclass(frozen=True)
class Alteration:
    """alter : changes the bundle in a directory
    told : what the refusal must say
    """

    alter: Callable[[Path], None]
    told: str


def refused_starts(bundle: Bundle, rows: CheckedRows, plan: Plan, folder: Path) -> Finding:
    """A server over each altered bundle, which has to end by itself and say why."""
    finding, refused = Finding(), 0
    for kind in list(ALTERATIONS)[: plan.starts]:
        altered = copy_bundle(bundle, folder / kind.replace(" ", "-"))
        ALTERATIONS[kind].alter(altered)
        server = start_service(folder, OFFRAMP_BUNDLE=str(altered))
        try:
            status = server.ends(REFUSED_SECONDS)
        finally:
            server.stop()
        refused += bool(status)
        log = server.log.read_text(errors="replace")
        finding.expect(status, f"{kind}: exit status {status}, expected one that is not 0")
        finding.expect(_names(log, kind), f"{kind}: the log says {log[-300:]!r}")
        finding.expect("Traceback" not in log, f"{kind}: a traceback in the log")
    finding.figures.append(f"{refused} bundles refused at the start")
    return finding


def refused_reloads(place: Site) -> Finding:
    """Load altered bundles over one that is served, which goes on; then load it whole."""
    finding, served = Finding(), place.folder / BUNDLE
    whole = place.folder / "whole"
    shutil.copytree(served, whole)
    version = _version(place)
    before = place.server.metric("offramp_loads_total", outcome="refused")
    for kind, alteration in ALTERATIONS.items():
        failures = len(place.server.events("load_failed"))
        alteration.alter(served)
        response = _load(place)
        finding.expect(
            response.status_code == httpx.codes.SERVICE_UNAVAILABLE
            and "the one before is served" in response.text,
            f"{kind}: {response.status_code} {response.text}",
        )
        told = place.server.events("load_failed")[failures:]
        finding.expect(len(told) == 1 and _names(told[0], kind), f"{kind}: the log says {told}")
        finding.expect(_version(place) == version, f"{kind}: another version is served")
        _restore(whole, served)
    refused = place.server.metric("offramp_loads_total", outcome="refused") - before
    finding.expect(refused == len(ALTERATIONS), f"{refused:.0f} refused loads are counted")
    response = _load(place)
    finding.expect(response.status_code == httpx.codes.OK, f"the whole one: {response.text}")
    finding.expect(_version(place) == version, "the whole one has another version")
    finding.figures.append(f"{refused:.0f} loads refused; the whole bundle: {response.status_code}")
    return finding


def copy_bundle(bundle: Bundle, path: Path) -> Path:
    """Its files in another directory."""
    shutil.copytree(bundle.path, path)
    return path


def _names(text: str, kind: str) -> bool:
    return ALTERATIONS[kind].told in text


def _load(place: Site) -> httpx.Response:
    path = f"/v2/repository/models/{place.rows.model}/load"
    return httpx.post(place.server.url + path, timeout=REFUSED_SECONDS)


def _version(place: Site) -> str:
    """What the index says of the model, when it is ready."""
    index = place.server.post("/v2/repository/index").json()
    return next(str(m["version"]) for m in index if m["state"] == "READY")


def _restore(whole: Path, served: Path) -> None:
    shutil.rmtree(served)
    shutil.copytree(whole, served)


def _flip(path: Path) -> None:
    content = bytearray((path / MODEL).read_bytes())
    content[len(content) // 2] ^= 1
    (path / MODEL).write_bytes(content)


def _lower_threshold(path: Path) -> None:
    manifest = json.loads((path / MANIFEST).read_text())
    manifest["exits"][0]["threshold"] = 0.5
    (path / MANIFEST).write_text(json.dumps(manifest))


def _downgrade(path: Path) -> None:
    """By somebody who knows how the digest is made."""
    manifest = json.loads((path / MANIFEST).read_text())
    manifest["schema_version"] = 2
    manifest["digest"] = content_digest(manifest)
    (path / MANIFEST).write_text(json.dumps(manifest))


def _truncate(path: Path) -> None:
    content = (path / MANIFEST).read_bytes()
    (path / MANIFEST).write_bytes(content[: len(content) // 2])


def _link_out(path: Path) -> None:
    outside = path.parent / f"{path.name}-outside.onnx"
    (path / MODEL).rename(outside)
    (path / MODEL).symlink_to(outside)


ALTERATIONS = {
    "a flipped bit in model.onnx": Alteration(_flip, f"{MODEL} was altered"),
    "schema version 2": Alteration(_downgrade, f"{MANIFEST} does not follow the schema"),
    "a lowered threshold": Alteration(_lower_threshold, f"{MANIFEST} was altered"),
    "half a manifest": Alteration(_truncate, f"{MANIFEST} does not follow the schema"),
    "no model.onnx": Alteration(lambda path: (path / MODEL).unlink(), f"{MODEL} cannot be read"),
    "no manifest": Alteration(lambda path: (path / MANIFEST).unlink(), f"{MANIFEST} cannot be"),
    "a link out of the directory": Alteration(_link_out, f"{MODEL} is a link"),
}
