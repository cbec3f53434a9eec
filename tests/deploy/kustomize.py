"""What `kubectl kustomize` makes of deploy/kubernetes, as far as its files need it."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import yaml

KEYS = ("name", "mountPath", "port")
"""By which entries of a list are the same one."""


def documents(path: Path) -> list[dict[str, Any]]:
    """The YAML documents of a file."""
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


def rendered(folder: Path, components: list[Path] | None = None) -> list[dict[str, Any]]:
    """The resources of a folder with a kustomization.

    components : in place of those that it names
    """
    kustomization = documents(folder / "kustomization.yaml")[0]
    resources: list[dict[str, Any]] = []
    for name in kustomization.get("resources", []):
        path = folder / name
        resources += rendered(path) if path.is_dir() else documents(path)
    if components is None:
        components = [folder / name for name in kustomization.get("components", [])]
    for component in components:
        resources = _with_component(resources, component)
    return resources


def _with_component(resources: list[dict[str, Any]], folder: Path) -> list[dict[str, Any]]:
    kustomization = documents(folder / "kustomization.yaml")[0]
    for name in kustomization.get("resources", []):
        resources = [*resources, *documents(folder / name)]
    for patch in kustomization.get("patches", []):
        text = patch["patch"] if "patch" in patch else (folder / patch["path"]).read_text()
        change = yaml.safe_load(text)
        target = patch.get("target") or {
            "kind": change["kind"],
            "name": change["metadata"]["name"],
        }
        resources = [
            _patched(resource, change) if _is(resource, target) else resource
            for resource in resources
        ]
    return resources


def _is(resource: dict[str, Any], target: dict[str, str]) -> bool:
    return (resource["kind"], resource["metadata"]["name"]) == (target["kind"], target["name"])


def _patched(resource: dict[str, Any], change: Any) -> dict[str, Any]:
    return _operated(resource, change) if isinstance(change, list) else _merged(resource, change)


def _operated(resource: dict[str, Any], operations: list[dict[str, Any]]) -> dict[str, Any]:
    """A JSON patch, of `add` and `remove` at names."""
    resource = deepcopy(resource)
    for operation in operations:
        *way, last = operation["path"].strip("/").split("/")
        place: Any = resource
        for step in way:
            place = place[int(step) if isinstance(place, list) else step]
        if operation["op"] == "add":
            place[last] = operation["value"]
        else:
            assert operation["op"] == "remove"
            del place[last]
    return resource


def _merged(old: Any, new: Any) -> Any:
    """A strategic merge: null takes away, entries of a list that have a key are the same one."""
    if isinstance(old, dict) and isinstance(new, dict):
        both = {**old, **{name: _merged(old.get(name), value) for name, value in new.items()}}
        return {name: value for name, value in both.items() if value is not None}
    if isinstance(old, list) and isinstance(new, list):
        key = next((key for key in KEYS if all(key in entry for entry in [*old, *new])), None)
        if key is None:
            return new
        by_key = {entry[key]: entry for entry in old}
        for entry in new:
            by_key[entry[key]] = _merged(by_key.get(entry[key]), entry)
        return list(by_key.values())
    if isinstance(new, dict):
        return _merged({}, new)
    return new
